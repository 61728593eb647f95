"""Grouping, from and to protos."""

from typing import Final

from sluice.common.v1.document_pb2 import MetadataValue
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.core.grouping import Group
from services.retrieval.domain.documents import Value
from services.retrieval.domain.schema import Kind, Schema
from services.retrieval.hybrid.grouping import GroupedRanking
from services.retrieval.hybrid.search_spec import Grouping
from services.retrieval.wire.documents import value_message
from services.rpc.validation import Violations

_GROUPS_MAX: Final = 256
_GROUPED_BY: Final = (Kind.STRING, Kind.NUMBER)


def grouping(request: pb.RetrieveRequest, schema: Schema, violations: Violations, *, max_depth: int) -> Grouping | None:
    """Return the grouping; None if there is none."""
    if not request.HasField("grouping"):
        return None
    given = request.grouping
    fields = [field.name for field in schema.metadata if field.kind in _GROUPED_BY]
    if given.field not in fields:
        declared = ", ".join(fields) or "none is declared"
        violations.add(
            "grouping.field", f"expected a metadata field of strings or numbers ({declared}), got {given.field[:64]!r}"
        )
    violations.count("grouping.group_count", given.group_count, low=1, high=_GROUPS_MAX, what="groups")
    violations.count("grouping.group_size", given.group_size, low=1, high=_GROUPS_MAX, what="documents a group")
    product = given.group_count * given.group_size
    if product > max_depth:
        violations.count("grouping", product, low=1, high=max_depth, what="documents in all groups")
    if len(request.queries) > 1 and not request.HasField("fusion"):
        violations.add("fusion", f"expected a fusion, because {len(request.queries)} queries are grouped, got none")
    return Grouping(given.field, given.group_count, given.group_size)


def groups_message(found: GroupedRanking) -> pb.Groups:
    """Return the message of groups."""
    groups = [_group_message(group) for group in found.groups]
    return pb.Groups(groups=groups, incomplete=found.is_incomplete, coverage=found.coverage)


def _group_message(group: Group[Value]) -> pb.Group:
    value: MetadataValue | None = None if group.value is None else value_message(group.value)
    return pb.Group(value=value, document_ids=group.ranking.ids, scores=group.ranking.scores)
