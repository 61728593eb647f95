"""Fusion and grouping, to and from protos."""

from typing import Final

from sluice.common.v1.document_pb2 import MetadataValue
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.core.fusion import RRF_CONSTANT, Normalization
from services.core.grouping import Group
from services.retrieval.domain.documents import Value
from services.retrieval.domain.schema import Kind, Schema
from services.retrieval.hybrid.execution import Fused, Fusion, Grouped, Grouping, Rrf, WeightedSum
from services.retrieval.wire.documents import value_message
from services.rpc.validation import Violations

_NUMBER_MAX: Final = 1e6
_GROUPS_MAX: Final = 256
_GROUPED_BY: Final = (Kind.STRING, Kind.NUMBER)
_NORMALISATIONS: Final[dict[int, Normalization]] = {
    pb.SCORE_NORMALISATION_UNSPECIFIED: "min_max",
    pb.SCORE_NORMALISATION_MIN_MAX: "min_max",
    pb.SCORE_NORMALISATION_Z_SCORE: "z_score",
}


def fusion(request: pb.RetrieveRequest, violations: Violations, *, max_depth: int) -> Fusion | None:
    """How to fuse; None when it is not asked for, or refused."""
    if not request.HasField("fusion"):
        return None
    given = request.fusion
    violations.count("fusion.depth", given.depth, low=0, high=max_depth, what="documents")
    depth = given.depth or max((query.depth for query in request.queries), default=1)
    match given.WhichOneof("method"):
        case "rrf":
            return Fusion(_rrf(given.rrf, violations), depth)
        case "weighted_sum":
            return Fusion(_weighted_sum(given.weighted_sum, len(request.queries), violations), depth)
    violations.add("fusion", "expected rrf or weighted_sum, got neither")
    return None


def grouping(request: pb.RetrieveRequest, schema: Schema, violations: Violations, *, max_depth: int) -> Grouping | None:
    """How to group; None when it is not asked for."""
    if not request.HasField("grouping"):
        return None
    given = request.grouping
    fields = [field.name for field in schema.metadata if field.kind in _GROUPED_BY]
    if given.field not in fields:
        declared = ", ".join(fields) or "none at all"
        violations.add(
            "grouping.field", f"expected a metadata field of strings or numbers ({declared}), got {given.field[:64]!r}"
        )
    violations.count("grouping.group_count", given.group_count, low=1, high=_GROUPS_MAX, what="groups")
    violations.count("grouping.group_size", given.group_size, low=1, high=_GROUPS_MAX, what="documents a group")
    product = given.group_count * given.group_size
    if product > max_depth:
        violations.count("grouping", product, low=1, high=max_depth, what="documents in all groups")
    if len(request.queries) > 1 and not request.HasField("fusion"):
        violations.add("fusion", f"expected one, to group what {len(request.queries)} queries find, got none")
    return Grouping(given.field, given.group_count, given.group_size)


def fused_message(fused: Fused) -> pb.Ranking:
    """A fused ranking as it is sent."""
    return pb.Ranking(document_ids=fused.ranking.ids, scores=fused.ranking.scores, coverage=fused.coverage)


def groups_message(found: Grouped) -> pb.Groups:
    """Groups as they are sent."""
    groups = [_group_message(group) for group in found.groups]
    return pb.Groups(groups=groups, incomplete=found.is_incomplete, coverage=found.coverage)


def _group_message(group: Group[Value]) -> pb.Group:
    value: MetadataValue | None = None if group.value is None else value_message(group.value)
    return pb.Group(value=value, document_ids=group.ranking.ids, scores=group.ranking.scores)


def _rrf(given: pb.ReciprocalRankFusion, violations: Violations) -> Rrf:
    constant = given.constant if given.HasField("constant") else RRF_CONSTANT
    if not 0 < constant <= _NUMBER_MAX:
        violations.add("fusion.rrf.constant", f"expected above 0, up to {_NUMBER_MAX:,.0f}, got {constant:g}")
        return Rrf(RRF_CONSTANT)
    return Rrf(constant)


def _weighted_sum(given: pb.WeightedSum, count: int, violations: Violations) -> WeightedSum:
    path = "fusion.weighted_sum"
    if len(given.weights) != count:
        violations.add(f"{path}.weights", f"expected one for each of the {count} queries, got {len(given.weights)}")
    for i, weight in enumerate(given.weights):
        if not 0 <= weight <= _NUMBER_MAX:
            violations.add(f"{path}.weights[{i}]", f"expected 0 to {_NUMBER_MAX:,.0f}, got {weight:g}")
    if given.weights and not any(given.weights):
        violations.add(f"{path}.weights", "expected one above 0, got zeros alone")
    if given.normalisation not in _NORMALISATIONS:
        violations.add(f"{path}.normalisation", f"expected MIN_MAX or Z_SCORE, got number {given.normalisation}")
    return WeightedSum(list(given.weights), _NORMALISATIONS.get(given.normalisation, "min_max"))
