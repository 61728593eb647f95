"""How the time of a search is divided among its stages.

Rule: no clock; times are arguments, in seconds.
Fact: a stage that must not be skipped gets all the remaining time, because ending it early would fail the search
anyway. The stages after it share what it does not use. A reserve is kept for building and sending the response.
"""

from typing import Final

# The reserve takes at most this share of the remaining time.
_MAX_RESERVE_SHARE: Final = 0.1


def reserve_s(remaining_s: float, configured_s: float) -> float:
    """Return the seconds to keep for the response: as configured, and at most a tenth of the remaining time."""
    return min(configured_s, _MAX_RESERVE_SHARE * max(0.0, remaining_s))


def allowance_s(remaining_s: float, *, share: float, skippable: bool) -> float:
    """Return the seconds that a stage may use of those that remain after the reserve."""
    return share * remaining_s if skippable else remaining_s


def has_time_for(count: int, remaining_s: float, each_s: float) -> bool:
    """Return whether `count` more candidates, at `each_s` seconds per candidate, would end in time."""
    return remaining_s > count * each_s
