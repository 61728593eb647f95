"""An indexed system to be troubled, and kinds of trouble."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from sluice.common.v1.document_pb2 import Document
from sluice.errors import SluiceError, from_rpc_error
from sluice.search.v1 import search_service_pb2 as pb

from tests.support.stand_ins import (
    System,
    index,
    system,
)

BOOKS = [Document(document_id=f"d{n:02}", text=" ".join(f"word{m}" for m in range(n, n + 5))) for n in range(40)]


SEARCH = pb.SearchRequest(collection="books", query="word3 word4 word5", top_k=5)


def run(check: Callable[[System], Awaitable[None]], pipelines: Path | None = None, **settings: Any) -> None:
    async def main() -> None:
        async with system(pipelines, **settings) as running:
            await index(running, BOOKS)
            await check(running)

    asyncio.run(main())


async def failure(call: Awaitable[Any]) -> SluiceError:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def always(error: SluiceError) -> Callable[[str], Awaitable[None]]:
    async def raise_it(method: str) -> None:
        raise error

    return raise_it


async def hang(method: str) -> None:
    await asyncio.Event().wait()
