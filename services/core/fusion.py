"""Several rankings of one query made into one.

Facts: scores of different rankers have different scales, so they are summed only after normalisation, or not at all
but by rank. A document that a ranking does not have is worse there than all it has, by an unknown amount.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Final, Literal

from services.core.ranking import Ranking

Normalisation = Literal["min_max", "z_score"]

# Cormack et al. found results nearly flat around it.
RRF_CONSTANT: Final = 60.0


def rrf(rankings: Sequence[Ranking], *, constant: float = RRF_CONSTANT) -> Ranking:
    """Reciprocal rank fusion: score(d) = sum over rankings that have d of 1 / (constant + rank(d)).

    Source: Cormack, Clarke and Buettcher, Reciprocal Rank Fusion, SIGIR 2009.
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for id_, rank in ranking.ranks().items():
            scores[id_] = scores.get(id_, 0.0) + 1.0 / (constant + rank)
    return Ranking.of(scores.items())


def weighted_sum(rankings: Sequence[Ranking], weights: Sequence[float], normalisation: Normalisation) -> Ranking:
    """The sum of weighted, normalised scores. A ranking without a document gives it its own least normalised score.

    Source: Fox and Shaw, Combination of Multiple Searches, TREC-2 1994 (CombSUM).
    """
    sums = {id_: 0.0 for ranking in rankings for id_ in ranking.ids}
    for ranking, weight in zip(rankings, weights, strict=True):
        scores = normalise(ranking, normalisation)
        least = min(scores.values(), default=0.0)
        for id_ in sums:
            sums[id_] += weight * scores.get(id_, least)
    return Ranking.of(sums.items())


def interpolate(first: Ranking, second: Ranking, *, weight: float, normalisation: Normalisation) -> Ranking:
    """(1 - weight) * first + weight * second, normalised over the documents of `second`, and only those.

    weight  of the second stage, 0 to 1
    Raises ValueError when `second` has a document that `first` has not.
    Source: Wang et al., BERT-based Dense Retrievers Require Interpolation with BM25, ICTIR 2021.
    """
    if added := set(second.ids) - set(first.ids):
        raise ValueError(f"expected a reranking of the given documents, got {len(added)} others")
    return weighted_sum([first.only(second.ids), second], [1.0 - weight, weight], normalisation)


def below(scored: Ranking, rest: Ranking) -> Ranking:
    """`scored`, then `rest` in its own order: what an unfinished stage gives.

    The best of `rest` gets the least score of `scored` less 1; the others keep their distance to it. Documents that
    `scored` has are left out of `rest`.
    """
    unscored = rest.only(set(rest.ids) - set(scored.ids))
    if not scored or not unscored:
        return scored or unscored
    shift = scored.scores[-1] - 1.0 - unscored.scores[0]
    return Ranking.of([*scored.items(), *((id_, score + shift) for id_, score in unscored.items())])


def normalise(ranking: Ranking, normalisation: Normalisation) -> dict[str, float]:
    """Normalised scores by id; all zero when the scores are all equal."""
    return dict(zip(ranking.ids, _NORMALISATIONS[normalisation](ranking.scores), strict=True))


def _min_max(scores: Sequence[float]) -> list[float]:
    """(score - least) / (greatest - least): 0 to 1."""
    if not scores or max(scores) == min(scores):
        return [0.0] * len(scores)
    least, spread = min(scores), max(scores) - min(scores)
    return [(score - least) / spread for score in scores]


def _z_score(scores: Sequence[float]) -> list[float]:
    """(score - mean) / standard deviation of the population."""
    if not scores or max(scores) == min(scores):
        return [0.0] * len(scores)
    mean = sum(scores) / len(scores)
    deviation = sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    return [(score - mean) / deviation for score in scores]


_NORMALISATIONS: Final[dict[Normalisation, Callable[[Sequence[float]], list[float]]]] = {
    "min_max": _min_max,
    "z_score": _z_score,
}
