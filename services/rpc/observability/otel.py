"""Traces by OpenTelemetry, sent by OTLP over gRPC. Imported only when a collector is configured.

Rule: nothing here waits for the collector. Spans go into a bounded queue, a thread of its own sends them, and what does
not fit is dropped and counted.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.rpc.observability.metrics import SPANS
from services.rpc.observability.spans import Attributes, Metadata, SpanReference

# 2,048 spans are some 200 searches; 512 go in one message of about 200 KiB.
_QUEUE: Final = 2048
_MESSAGE: Final = 512
_DELAY_MS: Final = 1000
_TIMEOUT_S: Final = 5.0
_CLOSE_MS: Final = 2000
# Of the caller's metadata, so short that nobody can fill spans with them.
_CARRIED: Final = ("traceparent", "tracestate")

_SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


class Tracing:
    """One process's traces, from its making until `close`."""

    def __init__(self, endpoint: str, ratio: float, program: str) -> None:
        # They warn for every span that is dropped, just when there is most to do; SPANS counts them.
        for name in ("opentelemetry.sdk._shared_internal", "opentelemetry.exporter.otlp.proto.grpc.exporter"):
            logging.getLogger(name).setLevel(logging.ERROR)
        resource = Resource.create({"service.name": program, "service.version": version("sluice-search")})
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)), resource=resource, shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"), timeout=_TIMEOUT_S)
        self._processor = _Processor(
            _Counted(exporter),
            max_queue_size=_QUEUE,
            max_export_batch_size=_MESSAGE,
            schedule_delay_millis=_DELAY_MS,
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("sluice", version("sluice-search"))
        self._propagator = TraceContextTextMapPropagator()

    def close(self) -> None:
        """Send what waits, for two seconds at most."""
        self._processor.shutdown(_CLOSE_MS)

    def served(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> "Recorded":
        """Fact: every call has a task, and so a context, of its own: what is attached here needs no detaching."""
        carried = {key: value for key, value in metadata if key in _CARRIED and isinstance(value, str)}
        parent = self._propagator.extract(carried, context=Context())
        service, _, name = method.removeprefix("/").partition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
        span = self._tracer.start_span(
            method.removeprefix("/"), context=parent, kind=SpanKind.SERVER, attributes=attributes
        )
        contexts.attach(trace.set_span_in_context(span))
        return Recorded(span)

    @contextmanager
    def call(self, service: str, method: str) -> Iterator["Recorded"]:
        """See `services.rpc.observability.traces`, as for the others."""
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        with self._tracer.start_as_current_span(
            f"{service}/{method}",
            kind=SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield Recorded(span)

    @contextmanager
    def part(self, name: str) -> Iterator["Recorded"]:
        """A span below the current one."""
        with self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as span:
            yield Recorded(span)

    def batch(self, places: Iterable[SpanReference | None], attributes: Attributes) -> "Recorded":
        """A child of the first place that is sampled, so that a trace that is kept has its batches."""
        distinct = list({place.span_id: place for place in places if isinstance(place, SpanContext)}.values())
        first = next((place for place in distinct if place.trace_flags.sampled), next(iter(distinct), None))
        parent = Context() if first is None else trace.set_span_in_context(trace.NonRecordingSpan(first), Context())
        span = self._tracer.start_span(
            "batch", context=parent, attributes=attributes, links=[Link(place) for place in distinct]
        )
        return Recorded(span)

    def here(self) -> SpanContext | None:
        """The current span."""
        place = trace.get_current_span().get_span_context()
        return place if place.is_valid else None

    def note(self, attributes: Attributes) -> None:
        """Add to the current span."""
        trace.get_current_span().set_attributes(attributes)

    def outgoing(self) -> Metadata:
        """W3C trace context of the current span."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return tuple(carrier.items())


class Recorded:
    """A span of OpenTelemetry."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""
        self._span.set_attributes(attributes)

    def fail(self, what: str) -> None:
        """Say how it failed: an error of the trace only when the fault is a server's, as OpenTelemetry has it."""
        self._span.set_attribute("sluice.code", what)
        if what in _SERVER_FAULTS:
            self._span.set_status(StatusCode.ERROR, what)

    def end(self) -> None:
        """End it."""
        self._span.end()


class _Processor(BatchSpanProcessor):
    """Counts the spans that ended."""

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            SPANS.labels("ended").inc()
        super().on_end(span)

    def shutdown(self, timeout_millis: int = _CLOSE_MS) -> None:
        self._batch_processor.shutdown(timeout_millis)


class _Counted(SpanExporter):
    """Counts the spans that a collector took, and those that none did."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        SPANS.labels("exported" if result is SpanExportResult.SUCCESS else "failed").inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
