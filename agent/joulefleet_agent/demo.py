"""`joulefleet agent demo`: a small simulated fleet through the real pipeline, its last hours at once and then live.

Two hardwares, two models, two servers of each pair; one release, a few hours ago, costs 8 % more energy above idle on
one of the pairs. The load is steady: joules per token follow the load first, and a release would be hidden behind it.
"""

import logging
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import msgspec

from joulefleet.cli import Mendable
from joulefleet.config import ConfigError
from joulefleet.grid import HOUR_NS, floor_to
from joulefleet.source import SourceUnavailable
from joulefleet.units import NS_PER_S
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.cutter import Identity
from joulefleet_agent.ending import stop_on_signal
from joulefleet_agent.link import PostLink
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.replay import CollectorSilent, replay_source
from joulefleet_agent.service import only_one
from joulefleet_agent.sources import opener_of
from joulefleet_agent.spool import Spool, SpoolUnavailable
from joulefleet_agent.uplink import Uplink

STEP_NS = 60 * NS_PER_S
PAST_NS = 12 * HOUR_NS
RELEASE_AGO_S = 4 * HOUR_NS // NS_PER_S
LIVE_EVERY_S = 5.0
STEADY: dict[str, Any] = {"daily_swing": 0.0, "period_s": 60.0}
"""What all servers have in common. One reading of the past at each edge of a window tells as much as many."""

HARDWARE: dict[str, dict[str, Any]] = {
    "SIM-A": {"boards": 8, "board_idle_w": 75.0, "host_idle_w": 600.0, "host_overhead": 0.25},
    "SIM-B": {"boards": 4, "board_idle_w": 40.0, "host_idle_w": 250.0, "host_overhead": 0.3},
}
MODELS: dict[str, dict[str, Any]] = {
    "sim-8b": {"output_tokens_per_s": 9_000.0, "j_per_output_token": 0.12, "j_per_prompt_token": 0.012},
    "sim-70b": {"output_tokens_per_s": 2_400.0, "j_per_output_token": 0.9, "j_per_prompt_token": 0.09},
}
FRUGALITY = {"SIM-A": 1.0, "SIM-B": 0.55}
"""Energy per token of each hardware against the first."""
SERVERS_EACH = 2
RELEASED = ("SIM-A", "sim-70b")
"""On which hardware which model got a release."""


class DemoServer(msgspec.Struct, frozen=True):
    """One simulated server: its name and its simulation."""

    name: str
    table: dict[str, Any]


def fleet(now_s: int) -> Iterator[DemoServer]:
    """All servers of the demonstration, as of a second since 1970; one of every pair before the second of any."""
    for number in range(1, SERVERS_EACH + 1):
        for hardware, shape in HARDWARE.items():
            for model, work in MODELS.items():
                costs = {name: value * FRUGALITY[hardware] for name, value in work.items() if name.startswith("j_per")}
                released = {"release_at_s": now_s - RELEASE_AGO_S} if (hardware, model) == RELEASED else {}
                table = {"hardware": hardware, "model": model, **STEADY, **shape, **work, **costs, **released}
                yield DemoServer(f"{hardware.lower()}-{model.removeprefix('sim-')}-{number}", table)


@click.command()
@click.option("--collector", "url", required=True, help="Where the windows go.")
@click.option("--data-dir", required=True, type=click.Path(path_type=Path), help="Where they wait meanwhile.")
def demo(url: str, data_dir: Path) -> None:
    """Feed a simulated fleet to a collector until stopped."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    stop = stop_on_signal()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with only_one(data_dir / "demo"), ExitStack() as open_spools:
            _feed(list(_feeds(url, data_dir, open_spools)), stop)
    except (CollectorSilent, ConfigError, OSError, SourceUnavailable, SpoolUnavailable) as error:
        raise Mendable(error) from error


def _feeds(url: str, data_dir: Path, open_spools: ExitStack) -> Iterator["Feed"]:
    for server in fleet(_begun(data_dir)):
        yield Feed(server, url, open_spools.enter_context(Spool(data_dir / f"{server.name}.db")))


def _feed(feeds: Sequence["Feed"], stop: threading.Event) -> None:
    for feed in feeds:
        if not stop.is_set():
            feed.catch_up()
    while not stop.wait(LIVE_EVERY_S):
        for feed in feeds:
            feed.go_on()


class Feed:
    """One simulated server's pipeline and its way to the collector."""

    def __init__(self, server: DemoServer, url: str, spool: Spool) -> None:
        self._server = server
        self._spool = spool
        self._pipeline = Pipeline(spool, Identity(server=server.name, pool="demo", simulated=True), STEP_NS)
        self._uplink = Uplink([PostLink(url, random.SystemRandom())], spool, wall_ns, live=False)
        self._open = opener_of("simulated", "demo")
        self._live = self._open(server.table)

    def catch_up(self) -> None:
        """The hours before now, or since the demonstration last ran. Raises CollectorSilent, SpoolUnavailable."""
        now_ns = wall_ns()
        from_ns = max(floor_to(now_ns - PAST_NS, STEP_NS), self._pipeline.last_ns)
        span = {"from_s": from_ns // NS_PER_S, "until_s": now_ns // NS_PER_S}
        recording = self._open({**self._server.table, **span})
        replay_source(self._pipeline, recording, self._uplink, self._spool, lambda _windows, _at_ns: None, last=False)

    def go_on(self) -> None:
        """What the server says now. Raises SpoolUnavailable."""
        now_ns = wall_ns()
        self._pipeline.feed(self._live.read(), now_ns)
        self._pipeline.tick(now_ns, now_ns)
        self._uplink.send_once()


def _begun(data_dir: Path) -> int:
    """Second since 1970 of the minute in which this demonstration first ran: its release stays where it is."""
    mark = data_dir / "begun"
    if not mark.exists():
        mark.write_text(str(floor_to(wall_ns(), STEP_NS) // NS_PER_S), encoding="ascii")
    return int(mark.read_text(encoding="ascii"))
