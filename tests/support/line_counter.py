"""How much Python runs on the event loop, counted in lines: a measure of work that no busy machine changes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from tests.support.processes import ROOT

_OURS = str(ROOT / "services")


@dataclass
class LineCounter:
    """Lines of the services that this thread ran."""

    count: int = 0

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        """Count a line; and a call, which is what each item of a generator is."""
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        if event in ("call", "line"):
            self.count += 1
        return self.trace


@contextmanager
def counting_lines() -> Iterator[LineCounter]:
    """Count what this thread runs in the block. Code in other threads, and in C, is not counted."""
    lines = LineCounter()
    before = sys.gettrace()
    sys.settrace(lines.trace)
    try:
        yield lines
    finally:
        sys.settrace(before)
