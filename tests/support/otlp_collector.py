"""A small OTLP collector: a real gRPC server that stores the spans it receives."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


@dataclass(frozen=True)
class ReceivedSpan:
    """A span that was received."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    attributes: dict[str, Any]
    failed: bool


@dataclass
class Collector(TraceServiceServicer):
    """Stores the received spans."""

    address: str = ""
    _seen: list[ReceivedSpan] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def spans(self) -> list[ReceivedSpan]:
        """Spans received so far."""
        with self._lock:
            return list(self._seen)

    def Export(self, request: Any, context: Any) -> Any:
        with self._lock:
            for resource in request.resource_spans:
                service = {item.key: item.value.string_value for item in resource.resource.attributes}["service.name"]
                self._seen += [_seen(service, span) for scope in resource.scope_spans for span in scope.spans]
        return pb.ExportTraceServiceResponse()


@contextmanager
def otlp_collector() -> Iterator[Collector]:
    """Run a collector on a free port for the block."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def _seen(service: str, span: Any) -> ReceivedSpan:
    values = {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}
    links = tuple(link.span_id.hex() for link in span.links)
    parent = span.parent_span_id.hex()
    failed = span.status.code == 2
    return ReceivedSpan(service, span.name, span.trace_id.hex(), span.span_id.hex(), parent, links, values, failed)
