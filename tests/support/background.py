"""Servers on a separate thread, for clients that block."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

from tests.support.waiting import GUARD_S

T = TypeVar("T")


@contextmanager
def in_background(manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Hold an async context manager open on another thread for the block, and yield its value."""
    entered: Future[tuple[T, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def hold() -> None:
        leave = asyncio.Event()
        try:
            async with manager as value:
                entered.set_result((value, asyncio.get_running_loop(), leave))
                await leave.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    try:
        value, loop, leave = entered.result(timeout=GUARD_S)
        try:
            yield value
        finally:
            loop.call_soon_threadsafe(leave.set)
    finally:
        thread.join()
