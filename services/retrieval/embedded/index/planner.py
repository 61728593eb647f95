"""How to search a segment: through its graph, or by scanning the documents that match. Pure.

Facts, measured with FAISS: a filter inside the graph leaves recall at 0.98 when it lets 10 % through and at 0.44 when
it lets 1 % through, because the search ends with few matches in its beam; a scan of that 1 % is exact and quicker.
A graph search looks at about 2 * connectivity neighbours for each place in its beam.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final

from services.retrieval.domain.schema import Coarse

# Neighbours of a document in the graph ("M"), and the beam while building ("efConstruction").
CONNECTIVITY: Final = 16
EF_CONSTRUCTION: Final = 128

# Least beam: recall@10 is above 0.99 with it on 200,000 embeddings of 384 dimensions.
_EF_MIN: Final = 128
# Scanning touches documents in order, which memory likes: it may look at this many times more of them.
_SCAN_ADVANTAGE: Final = 2
# Coarse scores put 99 % of the best k at a place up to about so many k, and some more: measured with 100,000 MiniLM
# embeddings for k = 10 and 100. What is fetched is scored exactly.
_OVERSAMPLING: Final[Mapping[Coarse, tuple[float, int]]] = {
    Coarse.F32: (1.0, 20),
    Coarse.F16: (1.5, 50),
    Coarse.I8: (1.5, 50),
    Coarse.B1: (20.0, 100),
}
# Encodings of 20 repetitions, 32 parts and 16 dimensions: 0.987 of the best 10 by MaxSim of MiniLM's tokens.
_ENCODING_OVERSAMPLING: Final = (10.0, 200)
# A prefix of half the dimensions, of a model not trained for it.
_PREFIX_OVERSAMPLING: Final = (8.0, 50)


@dataclass(frozen=True)
class Plan:
    """Fetch `fetch` coarse candidates: through the graph with a beam of `ef`, or by a scan when that is None."""

    fetch: int
    ef: int | None


def fetched(depth: int, oversampling: float | None, coarse: Coarse, *, has_prefix: bool = False) -> int:
    """Coarse candidates for `depth` documents: so many times as many, or by default enough for the coarse form."""
    if oversampling is not None:
        return ceil(oversampling * depth)
    factor, more = _OVERSAMPLING[coarse]
    if has_prefix:
        factor, more = factor * _PREFIX_OVERSAMPLING[0] / 1.5, more + _PREFIX_OVERSAMPLING[1]
    return int(factor * depth) + more


def encodings_fetched(depth: int, oversampling: float | None) -> int:
    """Candidates by fixed dimensional encoding for `depth` documents by MaxSim."""
    factor, more = (oversampling, 0) if oversampling is not None else _ENCODING_OVERSAMPLING
    return ceil(factor * depth) + more


def plan(*, total: int, matching: int, fetch: int, has_graph: bool) -> Plan:
    """The cheaper way that keeps recall, for `fetch` candidates among `matching` of `total` documents.

    The beam grows as the share of matches falls, so that as many matches are in it as without a filter.
    """
    fetch = min(matching, fetch)
    if not has_graph or not matching:
        return Plan(fetch, None)
    ef = int(max(_EF_MIN, fetch) * total / matching)
    if matching <= _SCAN_ADVANTAGE * 2 * CONNECTIVITY * ef:
        return Plan(fetch, None)
    return Plan(fetch, ef)
