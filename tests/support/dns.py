"""A small name server on loopback: one name, whose addresses a test changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dnslib import QTYPE, RR, A
from dnslib.server import BaseResolver, DNSLogger, DNSServer

NAME = "search.test"


@dataclass
class NameServer(BaseResolver):  # type: ignore[misc]
    """What the name server answers."""

    addresses: list[str] = field(default_factory=list)
    """IPv4 addresses of NAME, as they are now."""
    server: str = ""

    def target(self, port: int) -> str:
        """What a gRPC client is given, to ask this name server."""
        return f"dns://{self.server}/{NAME}:{port}"

    def resolve(self, request: Any, handler: Any) -> Any:
        reply = request.reply()
        if request.q.qtype == QTYPE.A:
            for address in self.addresses:
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=0))
        return reply


@contextmanager
def name_server() -> Iterator[NameServer]:
    """A name server on a free port for the block, by UDP and by TCP."""
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
