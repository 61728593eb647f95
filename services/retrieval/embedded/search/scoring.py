"""A search in pieces, so that it can end between two of them when its time is over."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.core.arrays import F32, I64, Bool
from services.retrieval.embedded.index.view import Part, View

IsOver = Callable[[], bool]
"""Whether the time of a search is over. May raise when nobody waits for what was found."""


@dataclass(frozen=True)
class Piece:
    """What a piece of the work gave: documents of a part by position, with their exact scores, the best among them.

    `covered` is how many of the documents that the masks let through it decided about.
    """

    part: Part
    positions: I64
    scores: F32
    covered: int


class Scorer(Protocol):
    """A query of one field. It finds at most `depth` documents."""

    @property
    def depth(self) -> int:
        """How many to find."""

    def pieces(self, view: View, masks: Sequence[Bool]) -> Iterator[Piece]:
        """The work on those documents that the masks, one a part, let through, piece by piece."""
