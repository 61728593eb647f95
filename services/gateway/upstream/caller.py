"""Calls to the services on behalf of one HTTP request.

Rule: the gateway never retries. Its clients have retries of their own, which follow `Retry-After`.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import grpc
from fastapi import Depends, Request
from sluice.client.documents import unfit
from sluice.errors import Unauthenticated, from_rpc_error

from services.gateway.access import Method, Rights
from services.gateway.http.memory_budget import MemoryShare
from services.gateway.upstream.stubs import Upstream
from services.rpc.deadline import Deadline

DEADLINE_HEADER: Final = "x-deadline-ms"
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# Values that gRPC accepts in metadata, up to the longest token.
_AUTHORIZATION: Final = re.compile(r"[ -~]{1,4096}")


@dataclass(frozen=True)
class Caller:
    """The deadline and the rights of an HTTP request, and the metadata that is sent with each of its calls."""

    upstream: Upstream
    deadline: Deadline
    rights: Rights
    response_share: MemoryShare
    """Memory of the response, in the budget for responses."""
    metadata: tuple[tuple[str, str], ...] = ()

    def within(self, seconds: float) -> "Caller":
        """Return the same caller with a deadline of at most `seconds` from now."""
        return replace(self, deadline=Deadline(min(self.deadline.at, Deadline.after(seconds).at)))

    def check_size(self, field: str, text: str) -> None:
        """Raise InvalidRequest if the text is larger than the services accept."""
        most = self.upstream.settings.max_text_bytes
        if 4 * len(text) > most and (size := len(text.encode())) > most:
            raise unfit(field, f"expected at most {most:,} bytes of UTF-8, got {size:,}")

    def check_sizes(self, field: str, texts: Sequence[str]) -> None:
        """Raise InvalidRequest for the first text that is larger than the services accept."""
        for position, text in enumerate(texts):
            self.check_size(f"{field}[{position}]", text)

    async def call(self, method: Method, request: Any) -> Any:
        """Call a method and return its response. Raises SluiceError. If this is cancelled, so is the call."""
        await self.rights.check(method, request)
        try:
            return await method.rpc(request, timeout=self.deadline.timeout_s(), metadata=self.metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def stream(self, method: Method, first: Any) -> Any:
        """Return a function that opens the stream with the given messages, of which `first` will be the first.

        Raises SluiceError if the request may not open the stream.
        """
        await self.rights.check(method, first)

        def open_stream(messages: AsyncIterator[Any]) -> Any:
            return method.rpc()(self.rights.throttle(messages), metadata=self.metadata)

        return open_stream


def _caller(request: Request) -> Caller:
    upstream: Upstream = request.app.state.upstream
    state = request.state
    timeout_s = _timeout_s(request.headers, upstream.settings.max_deadline_s)
    return Caller(
        upstream, Deadline.after(timeout_s), state.rights, state.response_share, tuple(_metadata(request.headers))
    )


Called = Annotated[Caller, Depends(_caller)]
"""The parameter by which a route receives its `Caller`."""


def _timeout_s(headers: Mapping[str, str], most_s: float) -> float:
    """Return the timeout that the request asks for, at most the gateway's own. Raises InvalidRequest."""
    given = headers.get(DEADLINE_HEADER)
    if given is None:
        return most_s
    if not re.fullmatch(r"[1-9][0-9]{0,8}", given):
        raise unfit(DEADLINE_HEADER, f"expected milliseconds, an integer above 0, got {given!r:.40}")
    return min(int(given) / 1000, most_s)


def _metadata(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the metadata of each call: the credentials and the trace of the request. Raises Unauthenticated."""
    passed = []
    if authorization := headers.get("authorization"):
        if not _AUTHORIZATION.fullmatch(authorization):
            raise Unauthenticated(
                "authorization: expected at most 4,096 printable ASCII characters, got something else"
            )
        passed.append(("authorization", authorization))
    # A malformed traceparent is ignored, as W3C Trace Context requires.
    if _TRACEPARENT.fullmatch(trace := headers.get("traceparent", "")):
        passed.append(("traceparent", trace))
    return passed
