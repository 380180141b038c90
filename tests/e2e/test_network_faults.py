"""Networks that cut, fall silent or refuse, by stream and by POST: every window is in the store afterwards, once."""

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from fixtures.collectors import Collector
from fixtures.network import Network, Way, network_to
from fixtures.past import Past, assert_same, windows_in
from fixtures.processes import SIMULATED, agent_config, collecting, running, until
from joulefleet.window import Window
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.link import Link, PostLink, StreamLink
from joulefleet_agent.uplink import Uplink

CUTS = 60
REACH: dict[Way, int] = {"to_collector": 1_800, "to_agent": 500}
"""Bytes of a handshake with a batch and its answer, or somewhat more: here or there no byte of this number comes."""
PATIENCE_S = 0.3
HOUR_NS = 3_600 * 10**9


def by_stream(url: str) -> Link:
    return StreamLink(url, random.Random(1), timeout_s=PATIENCE_S)


def by_post(url: str) -> Link:
    return PostLink(url, random.Random(1), timeout_s=PATIENCE_S)


ways = pytest.mark.parametrize(("way", "asked"), [(by_stream, "GET"), (by_post, "POST")])


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """One for all: each test has a server of its own."""
    folder = tmp_path_factory.mktemp("collector")
    with collecting(folder / "collector", folder / "data") as (_, door):
        yield door


@pytest.fixture
def between(collector: Collector) -> Iterator[Network]:
    """The network on the way to it."""
    with network_to(collector.url) as network:
        yield network


@pytest.fixture
def past(tmp_path: Path) -> Iterator[Past]:
    past = Past(tmp_path / "past.db", tmp_path.name, wall_ns() - HOUR_NS)
    yield past
    past.close()


def uplink_of(past: Past, link: Link) -> Uplink:
    return Uplink([link], past.spool, wall_ns)


def deliver(uplink: Uplink) -> int:
    """Send until nothing waits, without the pauses that it asks for. How often it asked."""
    pauses = 0
    while (wait_s := uplink.send_once()) is not None:
        pauses += wait_s > 0
        assert pauses < 20
    return pauses


@ways
def test_a_connection_cut_at_any_byte_loses_no_window_and_doubles_none(
    collector: Collector, between: Network, past: Past, way: Callable[[str], Link], asked: str
) -> None:
    chance = random.Random(5)
    uplink = uplink_of(past, way(between.url))
    again = 0
    for _ in range(CUTS):
        past.live(3)
        if chance.random() < 0.3:
            uplink.close()  # so that the handshake is cut too
        direction = chance.choice(sorted(REACH))
        between.cut_after(direction, chance.randrange(REACH[direction]))
        again += deliver(uplink)
        between.mend()
    uplink.close()
    print(f"{between.cuts} of {CUTS} connections were cut; {again} pauses were asked for")
    assert between.cuts > CUTS // 4
    assert set(between.asked) == {asked}
    past.assert_counted_once(collector)


@ways
@pytest.mark.parametrize("end", ["passed on late", "dropped"])
def test_a_network_that_falls_silent_is_given_up_and_what_it_held_counts_once(
    collector: Collector, between: Network, past: Past, way: Callable[[str], Link], asked: str, end: str
) -> None:
    uplink = uplink_of(past, way(between.url))
    past.live(3)
    assert deliver(uplink) == 0
    past.live(3)
    between.hold()
    assert uplink.send_once()
    assert uplink.send_once()
    assert len(collector.windows(server=past.server)) == 3
    if end == "dropped":
        between.drop()
    else:
        between.pass_on()
    deliver(uplink)
    uplink.close()
    past.assert_counted_once(collector)


@ways
def test_a_network_that_refuses_keeps_everything_on_disk(
    collector: Collector, between: Network, past: Past, way: Callable[[str], Link], asked: str
) -> None:
    uplink = uplink_of(past, way(between.url))
    past.live(3)
    between.refuse()
    assert uplink.send_once()
    assert past.spool.depth()[0] == 3
    between.accept()
    deliver(uplink)
    uplink.close()
    past.assert_counted_once(collector)


def test_a_live_agent_on_a_bad_network_loses_nothing(tmp_path: Path, collector: Collector, between: Network) -> None:
    def arrived() -> list[Window]:
        return collector.windows(server="live")

    def until_more(what: str) -> None:
        least = len(arrived()) + 2
        until(lambda: len(arrived()) >= least, what)

    config = str(agent_config(tmp_path, between.url, SIMULATED, step_s=1, server="live"))
    with running(tmp_path / "agent", "agent", "run", "--config", config) as agent:
        until(arrived, "a first window")
        between.cut_after("to_collector", 700)
        until_more("windows after a cut")
        between.refuse()
        between.drop()
        until(lambda: "not reached" in agent.err, "the agent to find nobody")
        between.accept()
        until(lambda: "reached again" in agent.err, "the agent to be heard again")
        between.hold()
        # What was past the network by then is stored before the next windows have closed.
        passed = len(windows_in(tmp_path / "spool.db")) + 2
        until(lambda: len(windows_in(tmp_path / "spool.db")) > passed, "windows to wait")
        before = len(arrived())
        until(lambda: len(windows_in(tmp_path / "spool.db")) > passed + 2, "more windows to wait")
        assert len(arrived()) == before
        between.drop()
        # What is new goes first: only when the backlog is in as well there is no gap.
        waited = {one.start_ns for one in windows_in(tmp_path / "spool.db")}
        until(lambda: waited <= {one.start_ns for one in arrived()}, "all that waited")
        assert agent.end() == 0
    told = arrived()
    assert_same(told, windows_in(tmp_path / "spool.db", f"start_ns <= {told[-1].start_ns}"))
    for earlier, later in pairwise(told):
        assert [one.last_uj for one in earlier.meters] == [one.first_uj for one in later.meters]
