"""Streams that are answered in order: what is read when, and what happens to the rest."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from sluice.errors import InvalidRequest, Unavailable

from services.compat.streams import in_order


class Call:
    """A call that runs callbacks at its end."""

    def __init__(self) -> None:
        self.at_end: list[Callable[[object], None]] = []

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        self.at_end.append(callback)


async def numbers(count: int, read: list[int]) -> AsyncIterator[int]:
    """The numbers below, each noted when it is read."""
    for number in range(count):
        read.append(number)
        yield number


def answers(requests: AsyncIterator[int], answer: Any, *, call: Call | None = None, idle_s: float = 60.0) -> Any:
    return in_order(requests, answer, cast("Any", call or Call()), idle_s=idle_s)


async def test_answers_keep_the_order_of_requests_though_later_ones_are_ready_first() -> None:
    first = asyncio.Event()

    async def answer(number: int) -> int:
        if number == 0:
            await first.wait()
        if number == 9:
            first.set()
        return number

    assert [one async for one in answers(numbers(10, []), answer)] == list(range(10))


async def test_a_stream_is_read_only_while_there_is_room() -> None:
    read: list[int] = []
    release = asyncio.Event()
    filled = asyncio.Event()

    async def answer(number: int) -> int:
        if number == 63:
            filled.set()
        await release.wait()
        return number

    async def consume() -> list[int]:
        return [one async for one in answers(numbers(200, read), answer)]

    consumer = asyncio.ensure_future(consume())
    await filled.wait()
    for _ in range(100):  # turns of the event loop, in which it could read on
        await asyncio.sleep(0)
    assert len(read) <= 65
    release.set()
    assert await consumer == list(range(200))


async def test_a_failure_follows_the_earlier_responses_and_cancels_the_others() -> None:
    cancelled: list[int] = []

    async def answer(number: int) -> int:
        if number == 2:
            raise InvalidRequest("two")
        try:
            return number if number < 2 else await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    found: list[int] = []

    async def consume() -> None:
        async for one in answers(numbers(5, []), answer):
            found.append(one)

    with pytest.raises(InvalidRequest, match="two"):
        await consume()
    await asyncio.sleep(0)
    assert found == [0, 1]
    assert set(cancelled) <= {3, 4}


async def test_the_end_of_the_call_cancels_responses_in_progress() -> None:
    call = Call()
    started, ended = asyncio.Event(), asyncio.Event()

    async def answer(number: int) -> int:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return number

    async def consume() -> None:
        async for _ in answers(numbers(1, []), answer, call=call):
            pass

    consumer = asyncio.ensure_future(consume())
    await started.wait()
    for callback in call.at_end:
        callback(None)
    await ended.wait()
    with pytest.raises(asyncio.CancelledError):
        await consumer


async def test_a_stream_without_messages_is_ended() -> None:
    async def silence() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 0

    async def answer(number: int) -> int:
        return number

    with pytest.raises(Unavailable) as caught:
        async for _ in answers(silence(), answer, idle_s=0.01):
            pass
    assert caught.value.reason_name == "STREAM_IDLE"


async def test_an_empty_stream_has_no_answers() -> None:
    async def answer(number: int) -> int:
        return number

    assert [one async for one in answers(numbers(0, []), answer)] == []
