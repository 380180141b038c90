"""What the end-to-end tests share: a collector, as a process or by the test's clock, and agents that deliver to it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.collectors import Collector, as_process, in_this_process
from fixtures.virtual_agent import AgentOf, Clock, VirtualAgent

BEGIN_NS = 1_790_000_000_000_000_000 - 1_790_000_000_000_000_000 % 3_600_000_000_000
"""A whole hour in September 2026."""


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    """`joulefleet collector run` as a process, ended cleanly after the test."""
    with as_process(tmp_path / "data") as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    """The time in which the test happens; tests set it."""
    return Clock(BEGIN_NS)


@pytest.fixture
def hosted(tmp_path: Path, clock: Clock) -> Iterator[Collector]:
    """A collector on a loopback port that lives in the test's time."""
    with in_this_process(tmp_path / "data", clock) as running:
        yield running


@pytest.fixture
def agent_of(tmp_path: Path, hosted: Collector, clock: Clock) -> Iterator[AgentOf]:
    """Makes the agent of a server (its name, and the seconds of a window), which delivers to `hosted`."""
    with contextlib.ExitStack() as ends:

        def make(server: str, step_s: float = 60.0) -> VirtualAgent:
            agent = VirtualAgent(tmp_path, hosted.url, clock, server, step_s)
            ends.callback(agent.close)
            return agent

        yield make
