"""Tests of the timeout for reads of an index stream."""

import itertools
import sys
import threading
from types import FrameType

from sluice.client.indexing import Window
from sluice.client.patience import IndexJob, Watchdog
from sluice.search.v1 import search_service_pb2 as pb

from tests.support.waiting import GUARD_S


class Interrupted(Exception):
    """Stands for what a signal handler raises."""


def read_interrupted_at(event: int, watchdog: Watchdog, job: IndexJob) -> bool:
    """Raise Interrupted at this call or return of a function during a read. Return whether the read was that long."""
    events = itertools.count()

    def interrupt(_frame: FrameType, _kind: str, _value: object) -> None:
        if next(events) == event:
            sys.setprofile(None)
            raise Interrupted

    try:
        sys.setprofile(interrupt)
        watchdog.read(iter([pb.IndexResponse()]), job)
        sys.setprofile(None)
    except Interrupted:
        return True
    return False


def test_a_watchdog_closes_after_an_exception_at_any_moment_of_a_read() -> None:
    for event in itertools.count():
        watchdog = Watchdog(lambda: None)
        was_interrupted = read_interrupted_at(event, watchdog, IndexJob(pb.IndexRequest(), Window(64), 60.0, None))
        closing = threading.Thread(target=watchdog.close, daemon=True)
        closing.start()
        closing.join(GUARD_S)
        assert not closing.is_alive(), f"close waits forever after an exception at event {event}"
        if not was_interrupted:
            break
    assert event > 3
