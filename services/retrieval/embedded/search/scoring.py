"""The unit of progress of a search: between two chunks a search can end because its time is over."""

from dataclasses import dataclass

from services.core.arrays import F32, I64
from services.retrieval.embedded.index.view import LiveBlock


@dataclass(frozen=True)
class ScoredChunk:
    """Documents of a part by position with their exact scores, the best ones of the chunk among them.

    covered  number of documents within the masks that the chunk decided about
    """

    part: LiveBlock
    positions: I64
    scores: F32
    covered: int
