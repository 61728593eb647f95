"""Filters in the text syntax of `sluice.client.filters`."""

from functools import partial
from typing import Final

from sluice.client.filters import where
from sluice.common.v1 import filter_pb2

from services.rpc.server.offloading import offload

# Longer filters are parsed in a thread. The largest take half a second.
_INLINE_CHARACTERS: Final = 1024


async def parse_filter(text: str) -> filter_pb2.Filter | None:
    """Return the filter of a text, or None for a blank text. Raises InvalidRequest."""
    if not text or text.isspace():
        return None
    return await offload(partial(where, text), size=len(text), inline=_INLINE_CHARACTERS)
