"""The collector's InfluxDB fails in every way: agents lose nothing, and each joule is counted once when it is back.

Two minutes of outage would be too long for a test. Each agent instead goes on with a spool in which as many windows
wait as two minutes make at its step of 1 s, and delivers them while its own time goes on.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import pytest

from fixtures.collectors import Collector, in_this_process
from fixtures.fault_proxy import Fault, FaultProxy, answered, fault_proxy
from fixtures.outage import (
    LONGEST_S,
    WAIT,
    Delivering,
    assert_bounded,
    collecting_by,
    delivering,
    influx_config,
    rss_kb,
)
from fixtures.processes import Command, Restarted, address_of, free_port, until
from fixtures.services import Server, influxd_1, of_debian, running_influxd_1
from fixtures.sums import assert_sums, ready
from joulefleet_agent.clock import wall_ns

FAULTS = {
    "500": answered("500 Internal Server Error", body='{"error":"timeout"}'),
    "429": answered("429 Too Many Requests", "Retry-After: 1"),
    "half an answer": answered("200 OK", "Content-Type: application/json", body='{"results":[{}]}', cut=6),
    "no answer": Fault(holds=True),
    "the answer lost": Fault(forwards=1),
    "half a write": Fault(forwards=0.5),
}
KILLED_AT = {
    "not yet stored": Fault(holds=True, rows_only=True),
    "half sent": Fault(forwards=0.5, holds=True, rows_only=True),
    "stored and not answered": Fault(forwards=1, holds=True, rows_only=True),
}


class Behind(NamedTuple):
    """A collector behind which the network to its InfluxDB can fail."""

    command: Command
    collector: Collector
    proxy: FaultProxy


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A collector with the embedded store, to which nothing happens."""
    with in_this_process(tmp_path_factory.mktemp("calm") / "data", wall_ns) as collector:
        yield collector


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, influxdb_1: Server) -> Iterator[Behind]:
    """One for all faults: what it recovers from, it recovers from without a restart."""
    folder = tmp_path_factory.mktemp("behind")
    with (
        fault_proxy(influxdb_1.url) as proxy,
        collecting_by(influx_config(folder, proxy.url, "store_faults")) as (command, collector),
    ):
        yield Behind(command, collector, proxy)


@pytest.mark.parametrize("name", FAULTS)
def test_what_the_store_answers_wrongly_or_not_at_all_is_sent_again_and_counts_once(
    name: str, behind: Behind, calm: Collector, tmp_path: Path
) -> None:
    before_kb, server = rss_kb(behind.command), name.replace(" ", "-")
    with ExitStack() as stack:
        with behind.proxy.failing(FAULTS[name]):
            agent = stack.enter_context(delivering(tmp_path, behind.collector.url, server))
            until(lambda: behind.proxy.met, "the store to be written to")
            # What is never answered ends by a timeout, which the store that hangs, below, waits for.
            assert_kept(behind.collector, *[agent] * (not FAULTS[name].holds))
        agent.delivers()
        assert ready(behind.collector) == 200
        windows = agent.ends(behind.collector)
    assert_sums(behind.collector, calm, server, windows)
    assert_bounded(behind.command, before_kb)


def assert_kept(collector: Collector, *agents: Delivering) -> None:
    """While the store fails the collector is not ready, and its agents keep everything."""
    assert ready(collector) == 503
    for agent in agents:
        until(lambda one=agent: one.is_refused, f"{agent.server} to be told to keep everything")
        assert agent.waits >= WAIT


@pytest.mark.parametrize("way", ["stopped", "hanging"])
def test_a_store_that_was_away_for_two_minutes_has_everything_when_it_is_back(
    way: str, calm: Collector, tmp_path: Path
) -> None:
    program, port = of_debian(influxd_1(), "InfluxDB 1.x (influxd)"), free_port()
    with ExitStack() as stack:
        server = stack.enter_context(running_influxd_1(program, tmp_path, port))
        config = influx_config(tmp_path, server.url, "fleet")
        command, collector = stack.enter_context(collecting_by(config))
        before_kb = rss_kb(command)
        if way == "stopped":
            server.end()
        else:
            server.pause()
        agents = [stack.enter_context(delivering(tmp_path, collector.url, f"{way}-{number}")) for number in range(2)]
        assert_kept(collector, *agents)
        if way == "stopped":
            stack.enter_context(running_influxd_1(program, tmp_path, port))
        else:
            server.resume()
        for agent in agents:
            agent.delivers()
        assert ready(collector) == 200
        for agent in agents:
            assert_sums(collector, calm, agent.server, agent.ends(collector))
        assert_bounded(command, before_kb)


def test_a_collector_killed_at_any_point_of_a_commit_counts_each_window_once(
    influxdb_1: Server, calm: Collector, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(fault_proxy(influxdb_1.url))
        config, port = influx_config(tmp_path, proxy.url, "kills"), str(free_port())
        words = ("collector", "run", "--config", str(config), "--port", port)
        store = stack.enter_context(closing(Restarted(tmp_path / "data", tmp_path / "collector", *words)))
        collector = Collector(address_of(store.command))
        assert store.command.kill()
        agent = stack.enter_context(delivering(tmp_path, collector.url, "killed"))
        for fault in KILLED_AT.values():
            with proxy.failing(fault):
                store.start()
                assert address_of(store.command) == collector.url
                until(lambda: proxy.met, "a commit", LONGEST_S)
                assert agent.waits >= WAIT
                assert store.command.kill()
        store.start()
        agent.delivers()
        assert_sums(collector, calm, "killed", agent.ends(collector))
