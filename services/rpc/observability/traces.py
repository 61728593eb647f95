"""Traces: where calls spend their time. Off unless a collector is configured.

    client ─▶ server span of a call ─▶ stage ─▶ client span of a call to another service ─▶ its server span ─▶ batch

A batch computes rows of several calls. Its span is a child of one of them and links to all.

Rule: while tracing is off, every function here checks one variable and returns, and OpenTelemetry is not imported.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from services.rpc.observability.spans import Attributes, Metadata, Span, SpanReference
from services.rpc.settings import ServerSettings

if TYPE_CHECKING:
    from services.rpc.observability.otel import Tracing


class NotInstalled(Exception):
    """OpenTelemetry is not installed."""


class _Off:
    """A span that records nothing, and its context manager."""

    def set(self, attributes: Attributes) -> None: ...

    def fail(self, code: str) -> None: ...

    def end(self) -> None: ...

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *_: object) -> None: ...


_OFF: Final = _Off()
_tracing: "Tracing | None" = None


@contextmanager
def tracing(settings: ServerSettings, program: str) -> Iterator[None]:
    """Trace calls in the block if a collector is configured. Raises NotInstalled without the extra `tracing`."""
    global _tracing  # noqa: PLW0603 - one for each process, like the metrics
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
    """Return whether calls are traced."""
    return _tracing is not None


def start_server_span(method: str, metadata: "Iterable[tuple[str, str | bytes]]") -> Span:
    """Start the span of a received call, `/package.Service/Method`. Later spans of its task are inside it."""
    return _OFF if _tracing is None else _tracing.start_server_span(method, metadata)


def none() -> Span:
    """Return the span of a call that is not traced."""
    return _OFF


def call(service: str, method: str) -> AbstractContextManager[Span]:
    """Return the span of a call to another service, as a context manager."""
    return _OFF if _tracing is None else _tracing.call(service, method)


def part(name: str) -> AbstractContextManager[Span]:
    """Return the span of a part of a call, as a context manager."""
    return _OFF if _tracing is None else _tracing.part(name)


def batch(callers: Iterable[SpanReference | None], attributes: Attributes) -> Span:
    """Start the span of a batch for the calls with these spans. Its caller ends it."""
    return _OFF if _tracing is None else _tracing.batch(callers, attributes)


def here() -> SpanReference | None:
    """Return the current span; None if nothing is traced."""
    return None if _tracing is None else _tracing.here()


def note(attributes: Attributes) -> None:
    """Add attributes to the current span."""
    if _tracing is not None:
        _tracing.note(attributes)


def outgoing() -> Metadata:
    """Return the metadata that pass the current span on to another service."""
    return () if _tracing is None else _tracing.outgoing()


def trace_id() -> str:
    """Return the current trace as 32 hexadecimal digits; empty if nothing is traced."""
    span = here()
    return f"{span.trace_id:032x}" if span else ""
