"""What stands before a server: its certificates, and the gate of tokens; both follow their files."""

import asyncio
from collections.abc import Callable

from services.rpc.auth.authorizer import Authorizer
from services.rpc.auth.tls import of_server
from services.rpc.observability.metrics import CERTIFICATE_EXPIRY
from services.rpc.server.interceptor import HEALTH, REFLECTION, CallInterceptor
from services.rpc.server.open_calls import OpenCalls
from services.rpc.settings import ServerSettings


class ServerSecurity:
    """The certificates and the gate of one server; None where not configured. Raises TlsError and TokensError."""

    def __init__(self, settings: ServerSettings) -> None:
        self.certificates = of_server(settings)
        self.authorizer = Authorizer(settings.tokens) if settings.tokens else None
        self._tell_expiry()

    def interceptor(
        self, settings: ServerSettings, open_calls: OpenCalls, reads: Callable[[], frozenset[str]]
    ) -> CallInterceptor:
        """What surrounds every call; `reads` are methods that change nothing though their protos do not say so."""
        policies = ((HEALTH, settings.health), (REFLECTION, settings.reflection))
        return CallInterceptor(
            max_deadline_s=settings.max_deadline_s,
            max_calls=settings.max_calls,
            open_calls=open_calls,
            authorizer=self.authorizer,
            guarded=tuple(prefix for prefix, policy in policies if policy == "token"),
            reads=reads,
        )

    async def watch(self, every_s: float) -> None:
        """Follow the files, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            if self.certificates and self.certificates.refresh():
                self._tell_expiry()
            if self.authorizer:
                self.authorizer.refresh()

    def _tell_expiry(self) -> None:
        expires = self.certificates and self.certificates.expires
        CERTIFICATE_EXPIRY.set(expires.timestamp() if expires else 0)
