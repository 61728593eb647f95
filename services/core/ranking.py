"""Rankings, which are the input and the output of every stage of a search.

Rule: scores of two rankings are not comparable, except through `services.core.fusion`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from operator import itemgetter
from typing import Final


@dataclass(frozen=True)
class Ranking:
    """Document ids with scores, best first. Equal scores are ordered by id.

    Raises ValueError if the numbers of ids and scores differ, an id occurs twice, a score is not finite, or the order
    is wrong.
    """

    ids: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.scores):
            raise ValueError(f"expected one score for each id, got {len(self.ids)} ids and {len(self.scores)} scores")
        _check(self.ids, self.scores)
        in_order = list(self.scores) == sorted(self.scores, reverse=True)
        ties = len(set(self.scores)) < len(self.scores)
        if not in_order or (ties and any(a == b and x > y for (x, a), (y, b) in pairwise(self.items()))):
            raise ValueError("expected descending scores, and equal scores by id, got another order")

    @classmethod
    def of(cls, scored: Iterable[tuple[str, float]]) -> "Ranking":
        """Return the ranking of ids with scores in any order.

        Raises ValueError if an id occurs twice or a score is not finite.
        """
        ordered = sorted(scored, key=_ID)
        ordered.sort(key=_SCORE, reverse=True)  # stable: equal scores stay by id
        ids, scores = tuple(map(_ID, ordered)), tuple(map(_SCORE, ordered))
        _check(ids, scores)
        return cls._unchecked(ids, scores)

    @classmethod
    def _unchecked(cls, ids: tuple[str, ...], scores: tuple[float, ...]) -> "Ranking":
        """Return a ranking without checks, for ids and scores that are known to be valid."""
        ranking = object.__new__(cls)
        object.__setattr__(ranking, "ids", ids)
        object.__setattr__(ranking, "scores", scores)
        return ranking

    def __len__(self) -> int:
        return len(self.ids)

    def top(self, k: int) -> "Ranking":
        """Return the best k documents, or all if there are fewer."""
        return self if len(self.ids) <= k else self._unchecked(self.ids[:k], self.scores[:k])

    def only(self, ids: Iterable[str]) -> "Ranking":
        """Return the documents that are among `ids`, in the same order."""
        kept = frozenset(ids)
        chosen = [item for item in self.items() if item[0] in kept]
        return self._unchecked(tuple(map(_ID, chosen)), tuple(map(_SCORE, chosen)))

    def cut(self, *, min_score: float | None, max_drop: float | None) -> "Ranking":
        """Return the ranking up to the first document that fails one of the limits.

        min_score  lowest score of a document
        max_drop   largest difference to the score of the previous document
        """
        for position, score in enumerate(self.scores):
            drop = self.scores[position - 1] - score if position else 0.0
            if (min_score is not None and score < min_score) or (max_drop is not None and drop > max_drop):
                return self.top(position)
        return self

    def items(self) -> Iterable[tuple[str, float]]:
        """Return pairs of id and score, best first."""
        return zip(self.ids, self.scores, strict=True)

    def ranks(self) -> dict[str, int]:
        """Return the rank of each id; 1 is the best."""
        return {id_: rank for rank, id_ in enumerate(self.ids, start=1)}


_ID: Final = itemgetter(0)
_SCORE: Final = itemgetter(1)


def _check(ids: tuple[str, ...], scores: tuple[float, ...]) -> None:
    if len(set(ids)) != len(ids):
        raise ValueError("expected unique ids, got an id twice")
    if not all(map(isfinite, scores)):
        raise ValueError("expected finite scores, got NaN or infinity")
