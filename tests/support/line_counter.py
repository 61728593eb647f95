"""A count of the Python lines that run on the event loop: a measure of work that a busy machine does not change."""

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
        """Count a line, or a call, which is one per item of a generator."""
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        if event in ("call", "line"):
            self.count += 1
        return self.trace


@contextmanager
def counting_lines() -> Iterator[LineCounter]:
    """Count what this thread runs in the block. Other threads and C code are not counted."""
    lines = LineCounter()
    before = sys.gettrace()
    sys.settrace(lines.trace)
    try:
        yield lines
    finally:
        sys.settrace(before)
