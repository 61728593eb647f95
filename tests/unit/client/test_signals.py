"""Signals that stop a command, held back while a child process is started."""

import signal
from collections.abc import Iterator

import pytest
from sluice.signals import deferred_signals, stop_on_signals

STOPS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers_stay() -> Iterator[None]:
    previous = {number: signal.getsignal(number) for number in STOPS}
    stop_on_signals()
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


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
