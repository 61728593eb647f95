"""Traces recorded by OpenTelemetry and sent by OTLP over gRPC. Imported only if a collector is configured.

Rule: nothing here waits for the collector. Spans go into a bounded queue, and a thread of its own sends them. Spans
that do not fit are dropped and counted.
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

# 2,048 spans are about 200 searches. A message has 512 of them, about 200 KiB.
_QUEUE: Final = 2048
_MESSAGE: Final = 512
_DELAY_MS: Final = 1000
_TIMEOUT_S: Final = 5.0
_CLOSE_MS: Final = 2000
# Metadata of the caller that are read, all short, so that callers cannot fill spans with data.
_CARRIED: Final = ("traceparent", "tracestate")

_SERVER_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


class Tracing:
    """The traces of one process, until `close`."""

    def __init__(self, endpoint: str, ratio: float, program: str) -> None:
        # They log a warning for every dropped span, even under overload. SPANS counts dropped spans instead.
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
        """Send the remaining spans, for at most two seconds."""
        self._processor.shutdown(_CLOSE_MS)

    def start_server_span(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> "Recorded":
        """Start the span of a received call, and make it the current one.

        Fact: every call has a task of its own, and so a context of its own. The context needs no detaching.
        """
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
        """Yield the span of a call to another service."""
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
        """Yield a child of the current span."""
        with self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as span:
            yield Recorded(span)

    def batch(self, callers: Iterable[SpanReference | None], attributes: Attributes) -> "Recorded":
        """Start the span of a batch.

        Its parent is the first caller's span that is sampled, so that a sampled trace has its batches.
        """
        distinct = list({span.span_id: span for span in callers if isinstance(span, SpanContext)}.values())
        first = next((one for one in distinct if one.trace_flags.sampled), next(iter(distinct), None))
        parent = Context() if first is None else trace.set_span_in_context(trace.NonRecordingSpan(first), Context())
        span = self._tracer.start_span(
            "batch", context=parent, attributes=attributes, links=[Link(one) for one in distinct]
        )
        return Recorded(span)

    def here(self) -> SpanContext | None:
        """Return the current span; None if there is none."""
        span = trace.get_current_span().get_span_context()
        return span if span.is_valid else None

    def note(self, attributes: Attributes) -> None:
        """Add attributes to the current span."""
        trace.get_current_span().set_attributes(attributes)

    def outgoing(self) -> Metadata:
        """Return the current span as metadata, in W3C trace context."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return tuple(carrier.items())


class Recorded:
    """A span that OpenTelemetry records."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""
        self._span.set_attributes(attributes)

    def fail(self, code: str) -> None:
        """Record the status code.

        It marks the span as an error only if the fault is the server's, as OpenTelemetry specifies.
        """
        self._span.set_attribute("sluice.code", code)
        if code in _SERVER_FAULTS:
            self._span.set_status(StatusCode.ERROR, code)

    def end(self) -> None:
        """End the span."""
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
    """Counts the spans that were exported, and those that were not."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        SPANS.labels("exported" if result is SpanExportResult.SUCCESS else "failed").inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
