"""Index calls to servers that stop acknowledging end after `patience_s`, with an error that says how to continue."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from sluice.client import Acknowledgement, AsyncSearchClient, Document, SearchClient
from sluice.errors import SluiceError, Unavailable

from tests.support.background import in_background
from tests.support.scripted_search import ScriptedSearch

NOWHERE = "127.0.0.1:1"


def documents(count: int) -> list[Document]:
    return [Document(f"d{number}", f"text {number}") for number in range(count)]


async def extend(known: list[Acknowledgement], acks: AsyncIterator[Acknowledgement]) -> None:
    async for ack in acks:
        known.append(ack)


def check_end(error: Unavailable, known: int) -> None:
    assert 0 < known < 5000
    assert f"no document was acknowledged for 0.5 s; {known} were stored before" in error.message
    assert "To continue, index the same documents again" in error.message
    assert error.metadata["stored"] == str(known)


def test_index_into_a_server_that_stops_acknowledging_gives_up_and_says_how_to_continue() -> None:
    """The stream stays open, but nothing is acknowledged anymore."""
    search = ScriptedSearch()
    known = []
    with in_background(search.served()) as address, SearchClient(address) as client:
        acks = client.index("docs", documents(5000), patience_s=0.5)
        known.append(next(acks))
        search.keeps_silent = True
        with pytest.raises(Unavailable) as caught:
            known.extend(acks)
        check_end(caught.value, len(known))
        assert search.ended.wait(30)


async def test_async_index_into_a_server_that_stops_acknowledging_gives_up_and_says_how_to_continue() -> None:
    search = ScriptedSearch()
    known = []
    async with search.served() as address, AsyncSearchClient(address) as client:
        acks = client.index("docs", documents(5000), patience_s=0.5)
        known.append(await anext(acks))
        search.keeps_silent = True
        with pytest.raises(Unavailable) as caught:
            await extend(known, acks)
        check_end(caught.value, len(known))
        assert await asyncio.to_thread(search.ended.wait, 30)


def test_patience_does_not_count_the_time_of_the_caller() -> None:
    search = ScriptedSearch()
    with in_background(search.served()) as address, SearchClient(address) as client:
        acks = client.index("docs", documents(200), patience_s=0.5)
        first = next(acks)
        threading.Event().wait(1.0)  # longer than its patience
        assert len([first, *acks]) == 200


def test_on_retry_is_called_for_each_retry() -> None:
    told: list[tuple[SluiceError, float]] = []
    with SearchClient(NOWHERE) as client, pytest.raises(Unavailable, match="0 were stored before"):
        list(
            client.index("docs", documents(1), patience_s=0.5, on_retry=lambda error, wait: told.append((error, wait)))
        )
    assert told
    assert all(isinstance(error, Unavailable) and 0 <= wait < 0.5 for error, wait in told)


def test_a_source_that_times_out_is_not_mistaken_for_a_silent_server() -> None:
    def failing() -> Iterator[Document]:
        yield Document("a", "text")
        raise TimeoutError("of the source")

    with (
        in_background(ScriptedSearch().served()) as address,
        SearchClient(address) as client,
        pytest.raises(TimeoutError, match="of the source"),
    ):
        list(client.index("docs", failing()))


async def test_an_async_source_that_times_out_is_not_mistaken_for_a_silent_server() -> None:
    async def failing() -> AsyncIterator[Document]:
        yield Document("a", "text")
        raise TimeoutError("of the source")

    async with ScriptedSearch().served() as address, AsyncSearchClient(address) as client:
        with pytest.raises(TimeoutError, match="of the source"):
            [ack async for ack in client.index("docs", failing())]
