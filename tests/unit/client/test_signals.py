"""Signals that stop a command: held back while a child process is started, and obeyed when `finally` never ends."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from sluice import signals
from sluice.signals import deferred_signals, stop_on_signals

from tests.support.waiting import GUARD_S

STOPS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers_stay(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    previous = {number: signal.getsignal(number) for number in STOPS}
    monkeypatch.setattr(signals, "_limit_time_to_stop", lambda number: None)
    stop_on_signals()
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


NEVER_ENDS = """
import threading
from sluice import signals

signals._GRACE_S = 0.1
signals.stop_on_signals()
lock = threading.Lock()
lock.acquire()
try:
    print("started", flush=True)
    threading.Event().wait()
finally:
    lock.acquire()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_cannot_clean_up_exits(number: signal.Signals, status: int) -> None:
    command = [sys.executable, "-c", NEVER_ENDS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=GUARD_S)
    assert process.returncode == status
    assert errors == f"not stopped 0.1 s after {number.name}: exiting\n"


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_is_delivered_at_the_end_of_the_block(number: signal.Signals, raised: type[BaseException]) -> None:
    done = []

    def start() -> None:
        with deferred_signals():
            signal.raise_signal(number)
            done.append("the rest of the block")

    with pytest.raises(raised):
        start()
    assert done


def test_without_a_signal_the_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in STOPS]
    with deferred_signals():
        pass
    assert [signal.getsignal(number) for number in STOPS] == before


def test_an_error_of_the_block_passes_and_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in STOPS]
    with pytest.raises(ValueError, match="own"), deferred_signals():
        raise ValueError("own")
    assert [signal.getsignal(number) for number in STOPS] == before
