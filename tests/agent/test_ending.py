"""A command that is told to stop."""

import signal
from collections.abc import Iterator

import pytest

from joulefleet_agent.ending import stop_on_signal


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event(number: signal.Signals) -> None:
    stop = stop_on_signal()
    assert not stop.is_set()
    signal.raise_signal(number)
    assert stop.is_set()
