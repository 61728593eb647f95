"""Where relevant documents were lost, or won, on their way through a pipeline. Pure.

What became of a relevant document, with k results looked at:
    kept                      among the first k all the way
    won by STAGE              the stage brought it among the first k, where it stayed
    lost by STAGE             the stage before had it among its first k, this one had not
    a candidate, never within no stage ranked it among its first k
    never a candidate         it is not in the answer at all, which is as long as the pipeline is deep
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

Standings = Mapping[str, int]
"""Rank, from 1, of one document after each stage that ranked it, in the order of the stages."""

KEPT = "kept"
NOT_A_CANDIDATE = "never a candidate"
NEVER_WITHIN = "a candidate, never within"


def fate(standings: Standings | None, k: int) -> str:
    """What became of one relevant document; None when it was not in the answer at all."""
    if not standings:
        return NOT_A_CANDIDATE
    ranks = list(standings.items())
    for (_, before), (name, after) in reversed(list(pairwise(ranks))):
        if (before <= k) != (after <= k):
            return f"won by {name}" if after <= k else f"lost by {name}"
    return KEPT if ranks[-1][1] <= k else NEVER_WITHIN


def fates(relevant: Mapping[str, Sequence[str]], found: Mapping[str, Mapping[str, Standings]], k: int) -> Counter[str]:
    """How many relevant documents of all queries met which fate.

    relevant  ids of relevant documents, by query
    found     standings of each document of the answer, by query
    """
    return Counter(fate(found.get(query, {}).get(id_), k) for query, ids in relevant.items() for id_ in ids)
