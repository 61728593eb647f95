"""A ranking: what every stage of a search gives, and the only thing the next one takes.

Rule: scores of two rankings do not compare, except through `services.core.fusion`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from operator import itemgetter
from typing import Final


@dataclass(frozen=True)
class Ranking:
    """Document ids with scores, best first; equal scores by lower id.

    Raises ValueError when ids and scores differ in number, an id is there twice, a score is not finite, or the order
    is another one.
    """

    ids: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.scores):
            raise ValueError(f"expected one score an id, got {len(self.ids)} ids and {len(self.scores)} scores")
        _check(self.ids, self.scores)
        in_order = list(self.scores) == sorted(self.scores, reverse=True)
        ties = len(set(self.scores)) < len(self.scores)
        if not in_order or (ties and any(a == b and x > y for (x, a), (y, b) in pairwise(self.items()))):
            raise ValueError("expected the best first and equal scores by lower id, got another order")

    @classmethod
    def of(cls, scored: Iterable[tuple[str, float]]) -> "Ranking":
        """The ranking of ids with scores in any order. Raises ValueError as above, but for the order."""
        ordered = sorted(scored, key=_ID)
        ordered.sort(key=_SCORE, reverse=True)  # stable: equal scores stay by id
        ids, scores = tuple(map(_ID, ordered)), tuple(map(_SCORE, ordered))
        _check(ids, scores)
        return cls._known(ids, scores)

    @classmethod
    def _known(cls, ids: tuple[str, ...], scores: tuple[float, ...]) -> "Ranking":
        """The ranking of what is known to be one, which costs no checks."""
        known = object.__new__(cls)
        object.__setattr__(known, "ids", ids)
        object.__setattr__(known, "scores", scores)
        return known

    def __len__(self) -> int:
        return len(self.ids)

    def top(self, k: int) -> "Ranking":
        """The best k; all when there are fewer."""
        return self if len(self.ids) <= k else self._known(self.ids[:k], self.scores[:k])

    def only(self, ids: Iterable[str]) -> "Ranking":
        """This ranking without the documents that are not among `ids`."""
        kept = frozenset(ids)
        chosen = [item for item in self.items() if item[0] in kept]
        return self._known(tuple(map(_ID, chosen)), tuple(map(_SCORE, chosen)))

    def cut(self, *, min_score: float | None, max_drop: float | None) -> "Ranking":
        """The ranking up to where it stops being good.

        min_score  a document below it, and all after it, are left out
        max_drop   so is a document whose score is lower than that before it by more than this
        """
        for position, score in enumerate(self.scores):
            drop = self.scores[position - 1] - score if position else 0.0
            if (min_score is not None and score < min_score) or (max_drop is not None and drop > max_drop):
                return self.top(position)
        return self

    def items(self) -> Iterable[tuple[str, float]]:
        """Pairs of id and score, best first."""
        return zip(self.ids, self.scores, strict=True)

    def ranks(self) -> dict[str, int]:
        """Each id's rank; 1 is the best."""
        return {id_: rank for rank, id_ in enumerate(self.ids, start=1)}


_ID: Final = itemgetter(0)
_SCORE: Final = itemgetter(1)


def _check(ids: tuple[str, ...], scores: tuple[float, ...]) -> None:
    if len(set(ids)) != len(ids):
        raise ValueError("expected unique ids, got an id twice")
    if not all(map(isfinite, scores)):
        raise ValueError("expected finite scores, got NaN or infinity")
