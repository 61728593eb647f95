"""An indexed system to be troubled, and kinds of trouble."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
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


def run(check: Callable[[System], Awaitable[None]], pipelines: Path | None = None, **settings: Any) -> None:
    async def main() -> None:
        async with system(pipelines, **settings) as running:
            await indexed(running)
            await check(running)

    asyncio.run(main())


async def indexed(running: System) -> None:
    """Index the books, again where the settings leave a busy machine too little time for it."""
    while len(running.retrieval.collections["books"].documents if running.retrieval.collections else ()) < len(BOOKS):
        with ignoring(Unavailable, DeadlineExpired):
            await index(running, BOOKS)


@contextmanager
def ignoring(*errors: type[SluiceError]) -> Iterator[None]:
    """Go on after one of these errors of a call. Raises any other."""
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
    """The first answer that is `enough`: with a short deadline, or with a longer one on a busy machine."""
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
