"""The certificates and the authorizer of a server, which follow changes of their files."""

import asyncio
from collections.abc import Callable

from services.rpc.auth.authorizer import Authorizer
from services.rpc.auth.tls import of_server
from services.rpc.observability.metrics import CERTIFICATE_EXPIRY
from services.rpc.server.interceptor import HEALTH, REFLECTION, CallInterceptor
from services.rpc.server.open_calls import OpenCalls
from services.rpc.settings import ServerSettings


class ServerSecurity:
    """The certificates and the authorizer of one server; None if not configured. Raises TlsError and TokensError."""

    def __init__(self, settings: ServerSettings) -> None:
        self.certificates = of_server(settings)
        self.authorizer = Authorizer(settings.tokens) if settings.tokens else None
        self._publish_expiry()

    def interceptor(
        self, settings: ServerSettings, open_calls: OpenCalls, reads: Callable[[], frozenset[str]]
    ) -> CallInterceptor:
        """Return the interceptor of the server.

        `reads` returns the methods that change nothing although their protos do not say so.
        """
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
        """Reload changed files, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            if self.certificates and self.certificates.refresh():
                self._publish_expiry()
            if self.authorizer:
                self.authorizer.refresh()

    def _publish_expiry(self) -> None:
        expires = self.certificates and self.certificates.expires
        CERTIFICATE_EXPIRY.set(expires.timestamp() if expires else 0)
