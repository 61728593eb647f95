"""An indexed system for fault tests, and kinds of faults."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from sluice.common.v1.document_pb2 import Document
from sluice.errors import DeadlineExpired, SluiceError, Unavailable, from_rpc_error
from sluice.search.v1 import search_service_pb2 as pb

from tests.support.fake_services import (
    System,
    index,
    system,
)
from tests.support.waiting import longer_and_longer

if TYPE_CHECKING:
    from sluice.search.v1.search_service_pb2_grpc import SearchServiceAsyncStub

BOOKS = [Document(document_id=f"d{n:02}", text=" ".join(f"word{m}" for m in range(n, n + 5))) for n in range(40)]


SEARCH = pb.SearchRequest(collection="books", query="word3 word4 word5", top_k=5)


@asynccontextmanager
async def indexed_system(pipelines: Path | None = None, **settings: Any) -> AsyncIterator[System]:
    """Run an orchestrator over fake services with the books indexed."""
    async with system(pipelines, **settings) as running:
        await indexed(running)
        yield running


def run(check: Callable[[System], Awaitable[None]], pipelines: Path | None = None, **settings: Any) -> None:
    async def main() -> None:
        async with indexed_system(pipelines, **settings) as running:
            await check(running)

    asyncio.run(main())


async def indexed(running: System) -> None:
    """Index the books, repeatedly if a busy machine is too slow for the settings."""
    while len(running.retrieval.collections["books"].documents if running.retrieval.collections else ()) < len(BOOKS):
        with ignoring(Unavailable, DeadlineExpired):
            await index(running, BOOKS)


@contextmanager
def ignoring(*errors: type[SluiceError]) -> Iterator[None]:
    """Ignore these errors of a call. Raises any other."""
    try:
        yield
    except grpc.RpcError as error:
        if not isinstance(from_rpc_error(error), errors):
            raise


async def search_with_time(
    search: "SearchServiceAsyncStub",
    request: pb.SearchRequest,
    enough: Callable[[pb.SearchResponse], bool],
    first_s: float = 2.0,
) -> pb.SearchResponse:
    """Return the first answer that is `enough`, with longer and longer deadlines for a busy machine."""
    for deadline_s in longer_and_longer(first_s):
        with ignoring(DeadlineExpired, Unavailable):
            answer = await search.Search(request, timeout=deadline_s)
            if enough(answer):
                return answer
    raise AssertionError("unreachable")


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
