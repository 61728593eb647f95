"""Fusion of several rankings of one query.

Facts: rankers score on different scales, so scores are summed after normalization, or ranks are used in their place. A
document that is missing from a ranking is worse than all documents in it, by an unknown amount.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Final, Literal

from services.core.ranking import Ranking

Normalization = Literal["min_max", "z_score"]

# Cormack et al. found that results hardly change around this value.
RRF_CONSTANT: Final = 60.0


def rrf(rankings: Sequence[Ranking], *, constant: float = RRF_CONSTANT) -> Ranking:
    """Fuse rankings by reciprocal rank: score(d) = sum over rankings that have d of 1 / (constant + rank(d)).

    Source: Cormack, Clarke and Buettcher, Reciprocal Rank Fusion, SIGIR 2009.
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for id_, rank in ranking.ranks().items():
            scores[id_] = scores.get(id_, 0.0) + 1.0 / (constant + rank)
    return Ranking.of(scores.items())


def weighted_sum(rankings: Sequence[Ranking], weights: Sequence[float], normalization: Normalization) -> Ranking:
    """Fuse rankings by the weighted sum of normalized scores.

    A document that is missing from a ranking gets the lowest normalized score of that ranking.

    Source: Fox and Shaw, Combination of Multiple Searches, TREC-2 1994 (CombSUM).
    """
    sums = {id_: 0.0 for ranking in rankings for id_ in ranking.ids}
    for ranking, weight in zip(rankings, weights, strict=True):
        scores = normalize(ranking, normalization)
        least = min(scores.values(), default=0.0)
        for id_ in sums:
            sums[id_] += weight * scores.get(id_, least)
    return Ranking.of(sums.items())


def interpolate(first: Ranking, second: Ranking, *, weight: float, normalization: Normalization) -> Ranking:
    """Return (1 - weight) * first + weight * second for the documents of `second`, with normalized scores.

    weight  of `second`, 0 to 1
    Raises ValueError if `second` has a document that is missing from `first`.
    Source: Wang et al., BERT-based Dense Retrievers Require Interpolation with BM25, ICTIR 2021.
    """
    if added := set(second.ids) - set(first.ids):
        raise ValueError(f"expected a ranking of documents of the first ranking, got {len(added)} others")
    return weighted_sum([first.only(second.ids), second], [1.0 - weight, weight], normalization)


def append_unscored(scored: Ranking, rest: Ranking) -> Ranking:
    """Return `scored` followed by the documents of `rest` that are not in it: the result of an unfinished stage.

    The best document of the rest gets the lowest score of `scored` minus 1. The others keep their distance to it.
    """
    unscored = rest.only(set(rest.ids) - set(scored.ids))
    if not scored or not unscored:
        return scored or unscored
    shift = scored.scores[-1] - 1.0 - unscored.scores[0]
    return Ranking.of([*scored.items(), *((id_, score + shift) for id_, score in unscored.items())])


def normalize(ranking: Ranking, normalization: Normalization) -> dict[str, float]:
    """Return the normalized scores by id; all zero if all scores are equal."""
    return dict(zip(ranking.ids, _NORMALIZATIONS[normalization](ranking.scores), strict=True))


def _min_max(scores: Sequence[float]) -> list[float]:
    """Return (score - lowest) / (highest - lowest), from 0 to 1."""
    if not scores or max(scores) == min(scores):
        return [0.0] * len(scores)
    least, spread = min(scores), max(scores) - min(scores)
    return [(score - least) / spread for score in scores]


def _z_score(scores: Sequence[float]) -> list[float]:
    """Return (score - mean) / standard deviation of the population."""
    if not scores or max(scores) == min(scores):
        return [0.0] * len(scores)
    mean = sum(scores) / len(scores)
    deviation = sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    return [(score - mean) / deviation for score in scores]


_NORMALIZATIONS: Final[dict[Normalization, Callable[[Sequence[float]], list[float]]]] = {
    "min_max": _min_max,
    "z_score": _z_score,
}
