"""Spans of traces, as the rest of the code sees them, whether they are recorded or not."""

from collections.abc import Mapping
from typing import Protocol

Value = str | bool | int | float
Attributes = Mapping[str, Value]
Metadata = tuple[tuple[str, str], ...]


class SpanReference(Protocol):
    """The identity of a span: its trace, and where a link to it points."""

    @property
    def trace_id(self) -> int:
        """The trace, a number of 128 bits."""


class Span(Protocol):
    """An operation of a trace, from its start until `end`."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def fail(self, code: str) -> None:
        """Record that the operation failed, and the status code."""

    def end(self) -> None:
        """End the span. The block of a `with` statement does it itself."""
