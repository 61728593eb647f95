"""Traces: which call of which caller took its time where. Off unless a collector is configured.

    client ─▶ server span of a call ─▶ stage ─▶ client span of a call to another service ─▶ its server span ─▶ batch

A batch computes rows of several calls: its span belongs to the first of them and links them all.

Rule: while they are off, every function here looks at one variable and returns; OpenTelemetry is not imported.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from services.rpc.observability.spans import Attributes, Metadata, Span, SpanReference
from services.rpc.settings import ServerSettings

if TYPE_CHECKING:
    from services.rpc.observability.otel import Tracing


class NotInstalled(Exception):
    """OpenTelemetry is not there."""


class _Off:
    """The span of no trace, and the block of it."""

    def set(self, attributes: Attributes) -> None: ...

    def fail(self, what: str) -> None: ...

    def end(self) -> None: ...

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *_: object) -> None: ...


_OFF: Final = _Off()
_tracing: "Tracing | None" = None


@contextmanager
def tracing(settings: ServerSettings, program: str) -> Iterator[None]:
    """Trace for the block when a collector is configured. Raises NotInstalled without the extra `tracing`."""
    global _tracing  # noqa: PLW0603 - one a process, as the metrics are
    if not settings.otlp_endpoint:
        yield
        return
    try:
        from services.rpc.observability.otel import Tracing  # noqa: PLC0415 - an extra, and it takes 100 ms
    except ModuleNotFoundError as error:
        raise NotInstalled from error

    _tracing = Tracing(settings.otlp_endpoint, settings.trace_ratio, program)
    try:
        yield
    finally:
        started, _tracing = _tracing, None
        started.close()


def is_on() -> bool:
    """Whether anything is traced."""
    return _tracing is not None


def served(method: str, metadata: "Iterable[tuple[str, str | bytes]]") -> Span:
    """The span of a call that came: `/package.Service/Method`. What its task does from now on is inside."""
    return _OFF if _tracing is None else _tracing.served(method, metadata)


def none() -> Span:
    """The span of a call that is not traced."""
    return _OFF


def call(service: str, method: str) -> AbstractContextManager[Span]:
    """The span of a call to another service."""
    return _OFF if _tracing is None else _tracing.call(service, method)


def part(name: str) -> AbstractContextManager[Span]:
    """The span of a part of a call."""
    return _OFF if _tracing is None else _tracing.part(name)


def batch(places: Iterable[SpanReference | None], attributes: Attributes) -> Span:
    """The span of a batch for calls at these places, which its caller ends."""
    return _OFF if _tracing is None else _tracing.batch(places, attributes)


def here() -> SpanReference | None:
    """The current span; None when nothing is traced."""
    return None if _tracing is None else _tracing.here()


def note(attributes: Attributes) -> None:
    """Add attributes to the current span."""
    if _tracing is not None:
        _tracing.note(attributes)


def outgoing() -> Metadata:
    """The metadata that carry the current span to another service."""
    return () if _tracing is None else _tracing.outgoing()


def trace_id() -> str:
    """The current trace, 32 hex digits; empty when nothing is traced."""
    place = here()
    return f"{place.trace_id:032x}" if place else ""
