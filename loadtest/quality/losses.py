"""Where a pipeline loses or gains relevant documents. Pure.

The fate of a relevant document within the first k results:
    kept                      among the first k after every stage
    won by STAGE              the stage moved it into the first k, where it stayed
    lost by STAGE             it was among the first k before the stage, and not after it
    a candidate, never within no stage ranked it among its first k
    never a candidate         it is not in the answer, which is as long as the pipeline is deep
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
    """Return the fate of one relevant document; `standings` is None if the answer does not have it."""
    if not standings:
        return NOT_A_CANDIDATE
    ranks = list(standings.items())
    for (_, before), (name, after) in reversed(list(pairwise(ranks))):
        if (before <= k) != (after <= k):
            return f"won by {name}" if after <= k else f"lost by {name}"
    return KEPT if ranks[-1][1] <= k else NEVER_WITHIN


def fates(relevant: Mapping[str, Sequence[str]], found: Mapping[str, Mapping[str, Standings]], k: int) -> Counter[str]:
    """Count the fates of the relevant documents of all queries.

    relevant  ids of relevant documents, by query
    found     standings of each document of the answer, by query
    """
    return Counter(fate(found.get(query, {}).get(id_), k) for query, ids in relevant.items() for id_ in ids)
