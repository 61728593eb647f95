"""How the time of one search is shared out.

Rule: no clock; moments and lengths are arguments, in seconds.
Facts: a stage that may not be skipped gets all that is left, for ending it early would help nobody; what it leaves,
the stages after it share. A part is always kept to put the answer together and send it.
"""

from typing import Final

# A caller with little time loses at most this part of it to the reserve.
_RESERVE_SHARE: Final = 0.1


def reserve_s(remaining_s: float, configured_s: float) -> float:
    """Seconds kept for the answer: as configured, and never more than a tenth of what there is."""
    return min(configured_s, _RESERVE_SHARE * max(0.0, remaining_s))


def allowance_s(remaining_s: float, *, share: float, skippable: bool) -> float:
    """Seconds a stage may take of those that remain, the reserve already taken off."""
    return share * remaining_s if skippable else remaining_s


def has_time_for(count: int, remaining_s: float, each_s: float) -> bool:
    """Whether so many more candidates, at the pace of the last slice, end in time. Work that would not is not begun."""
    return remaining_s > count * each_s
