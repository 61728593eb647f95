"""Fusion of the rankings of several queries into one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from services.core.fusion import Normalization, rrf, weighted_sum
from services.core.ranking import Ranking
from services.retrieval.domain.queries import Candidates


@dataclass(frozen=True)
class Rrf:
    """Reciprocal rank fusion."""

    constant: float

    def fuse(self, rankings: Sequence[Ranking]) -> Ranking:
        """Combine the rankings into one."""
        return rrf(rankings, constant=self.constant)


@dataclass(frozen=True)
class WeightedSum:
    """Fusion by normalized scores, with one weight per ranking."""

    weights: Sequence[float]
    normalization: Normalization

    def fuse(self, rankings: Sequence[Ranking]) -> Ranking:
        """Combine the rankings into one."""
        return weighted_sum(rankings, self.weights, self.normalization)


@dataclass(frozen=True)
class Fusion:
    """A method of fusion, and the maximum length of the fused ranking."""

    method: Rrf | WeightedSum
    depth: int


@dataclass(frozen=True)
class FusedRanking:
    """One ranking of all queries, and the lowest coverage of any query."""

    ranking: Ranking
    coverage: float


def fuse(candidates: Sequence[Candidates], fusion: Fusion | None) -> FusedRanking:
    """Combine the candidates of several queries, or return those of a single query without fusion.

    Scores are rounded to float32 as in responses, so that equal ones are ordered by id.
    """
    rankings = [Ranking.of(zip(one.ids, one.scores.tolist(), strict=True)) for one in candidates]
    ranking = rankings[0] if fusion is None else fusion.method.fuse(rankings)
    rounded = Ranking.of((id_, float(np.float32(score))) for id_, score in ranking.items())
    return FusedRanking(rounded, min(one.coverage for one in candidates))
