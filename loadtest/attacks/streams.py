"""Many streams that are opened and held."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from loadtest.channels import CHANNEL_OPTIONS


@dataclass(frozen=True)
class Streams:
    """Streams of one method, on several connections."""

    address: str
    method: str
    count: int
    connections: int
    hold_s: float
    message: bytes | None = None
    """Sent on each stream; None sends headers alone."""
    ends: bool = True
    """Whether the caller's side ends after the message."""
    metadata: tuple[tuple[str, str], ...] = ()

    def hold(self) -> Counter[str]:
        """Open, hold and cancel the streams. Return how often each code came; `open` counts streams without one."""
        return asyncio.run(self._hold())

    async def _hold(self) -> Counter[str]:
        channels = [grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS) for _ in range(self.connections)]
        try:
            calls = [self._begin(channels[number % self.connections]) for number in range(self.count)]
            writing = [asyncio.ensure_future(self._write(call)) for call in calls]
            await asyncio.sleep(self.hold_s)
            codes = Counter([(await call.code()).name if call.done() else "open" for call in calls])
            await _cancel(calls, writing)
            return codes
        finally:
            for channel in channels:
                await channel.close()

    def _begin(self, channel: grpc.aio.Channel) -> Any:
        if self.message is not None and self.ends:
            # Sent with the headers. A grpc.aio client that writes while its stream is refused reports INTERNAL instead.
            whole: Any = channel.unary_stream(self.method)
            return whole(self.message, metadata=self.metadata)
        stream: Any = channel.stream_stream(self.method)
        return stream(metadata=self.metadata)

    async def _write(self, call: Any) -> None:
        if self.message is None or self.ends:
            return
        try:
            await call.write(self.message)
        except (grpc.RpcError, asyncio.InvalidStateError):
            return


async def _cancel(calls: Sequence[Any], writing: Sequence["asyncio.Future[None]"]) -> None:
    for one in (*calls, *writing):
        one.cancel()
    await asyncio.gather(*writing, return_exceptions=True)
