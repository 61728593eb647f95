"""Conversion of the message parts that all model servers have in common."""

from collections.abc import Sequence
from typing import Final

from sluice.common.v1 import model_pb2 as pb

from services.inference.scheduler import Lane, Schedule
from services.inference.tokenizer import Input, Truncation
from services.rpc.deadline import Deadline
from services.rpc.server.interceptor import Context
from services.rpc.validation import Violations, validating

# Copying 256 KiB into a message takes about as long as a switch to a thread and back.
INLINE_BYTES: Final = 2**18
_LANES: Final[dict[int, Lane]] = {
    pb.LANE_UNSPECIFIED: "interactive",
    pb.LANE_INTERACTIVE: "interactive",
    pb.LANE_BULK: "bulk",
}
_TRUNCATIONS: Final[dict[int, Truncation]] = {
    pb.TRUNCATION_UNSPECIFIED: "end",
    pb.TRUNCATION_END: "end",
    pb.TRUNCATION_START: "start",
    pb.TRUNCATION_REFUSE: "refuse",
}


def schedule(lane: int, context: Context, *, max_s: float) -> Schedule:
    """Return the requested lane, and the caller's deadline, at most `max_s` away. Raises InvalidRequest."""
    with validating() as violations:
        if lane not in _LANES:
            violations.add("lane", f"expected INTERACTIVE or BULK, got number {lane}")
    return Schedule(_LANES[lane], Deadline.of(context, default_s=max_s).at)


def truncation(number: int, violations: Violations) -> Truncation:
    """Return the requested truncation; add a violation for an unknown one."""
    if number not in _TRUNCATIONS:
        violations.add("truncation", f"expected END, START or REFUSE, got number {number}")
    return _TRUNCATIONS.get(number, "end")


def usage(rows: Sequence[Input]) -> pb.TextUsage:
    """Return the token counts of a text, which was read as one row or in several windows."""
    return pb.TextUsage(
        token_count=sum(len(row.ids) for row in rows),
        dropped_token_count=sum(row.dropped for row in rows),
        window_count=len(rows),
    )
