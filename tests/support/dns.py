"""A small DNS server on loopback with one name, whose addresses a test can change."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dnslib import QTYPE, RR, A
from dnslib.server import BaseResolver, DNSLogger, DNSServer

NAME = "search.test"


@dataclass
class NameServer(BaseResolver):  # type: ignore[misc]
    """The DNS server's records."""

    addresses: list[str] = field(default_factory=list)
    """Current IPv4 addresses of NAME."""
    server: str = ""

    def target(self, port: int) -> str:
        """Return the target of a gRPC client that resolves NAME with this server."""
        return f"dns://{self.server}/{NAME}:{port}"

    def resolve(self, request: Any, handler: Any) -> Any:
        reply = request.reply()
        if request.q.qtype == QTYPE.A:
            for address in self.addresses:
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=0))
        return reply


@contextmanager
def name_server() -> Iterator[NameServer]:
    """Run a DNS server on a free port, over UDP, for the block."""
    names = NameServer()
    quiet = DNSLogger(logf=lambda _: None)
    udp = DNSServer(names, address="127.0.0.1", port=0, logger=quiet)
    port = udp.server.server_address[1]
    udp.start_thread()
    names.server = f"127.0.0.1:{port}"
    try:
        yield names
    finally:
        udp.stop()
        udp.server.server_close()
        udp.thread.join()
