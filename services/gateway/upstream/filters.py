"""Filters that callers give as text."""

from functools import partial
from typing import Final

from sluice.client.filters import where
from sluice.common.v1 import filter_pb2

from services.rpc.server.offloading import offloaded

# Longer filters are parsed in a thread: the largest take half a second.
_INLINE_CHARACTERS: Final = 1024


async def parse_filter(text: str) -> filter_pb2.Filter | None:
    """Return the filter that a text says; None for a blank one. Raise InvalidRequest."""
    if not text or text.isspace():
        return None
    return await offloaded(partial(where, text), size=len(text), inline=_INLINE_CHARACTERS)
