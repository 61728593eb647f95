"""Fusion, from and to protos."""

from typing import Final

from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.core.fusion import RRF_CONSTANT, Normalization
from services.retrieval.hybrid.fusion import FusedRanking, Fusion, Rrf, WeightedSum
from services.rpc.validation import Violations

_NUMBER_MAX: Final = 1e6
_NORMALIZATIONS: Final[dict[int, Normalization]] = {
    pb.SCORE_NORMALISATION_UNSPECIFIED: "min_max",
    pb.SCORE_NORMALISATION_MIN_MAX: "min_max",
    pb.SCORE_NORMALISATION_Z_SCORE: "z_score",
}


def fusion(request: pb.RetrieveRequest, violations: Violations, *, max_depth: int) -> Fusion | None:
    """Return the fusion; None if there is none, or it is invalid."""
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


def fused_message(fused: FusedRanking) -> pb.Ranking:
    """Return the message of a fused ranking."""
    return pb.Ranking(document_ids=fused.ranking.ids, scores=fused.ranking.scores, coverage=fused.coverage)


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
        violations.add(f"{path}.weights", "expected at least one weight above 0, got only zeros")
    if given.normalisation not in _NORMALIZATIONS:
        violations.add(f"{path}.normalisation", f"expected MIN_MAX or Z_SCORE, got number {given.normalisation}")
    return WeightedSum(list(given.weights), _NORMALIZATIONS.get(given.normalisation, "min_max"))
