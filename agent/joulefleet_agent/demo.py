"""`joulefleet agent demo`: a small simulated fleet through the real pipeline, its last hours at once and then live.

Two hardwares, two models, two servers of each pair; one release, a few hours ago, costs 8 % more on one of them.
"""

import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec

from joulefleet.source import Source, SourceGone
from joulefleet.units import NS_PER_S
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.cutter import Identity
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.replay import replay_source
from joulefleet_agent.sources import opener_of
from joulefleet_agent.spool import Spool
from joulefleet_agent.uplink import Uplink

STEP_NS = 60 * NS_PER_S
PAST_S = 12 * 3_600
RELEASE_AGO_S = 4 * 3_600
LIVE_EVERY_S = 5.0
PAST_PERIOD_S = 10.0

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


class DemoServer(msgspec.Struct, frozen=True):
    """One simulated server: its name and its simulation."""

    name: str
    table: dict[str, Any]


def fleet(now_s: int) -> Iterator[DemoServer]:
    """All servers of the demonstration, as of a second since 1970."""
    for hardware, shape in HARDWARE.items():
        for model, work in MODELS.items():
            costs = {name: value * FRUGALITY[hardware] for name, value in work.items() if name.startswith("j_per")}
            released = {"release_at_s": now_s - RELEASE_AGO_S} if (hardware, model) == ("SIM-A", "sim-70b") else {}
            table = {"hardware": hardware, "model": model, **shape, **work, **costs, **released}
            for number in range(1, SERVERS_EACH + 1):
                yield DemoServer(f"{hardware.lower()}-{model.removeprefix('sim-')}-{number}", table)


@click.command()
@click.option("--collector", "url", required=True)
@click.option("--data-dir", required=True, type=click.Path(path_type=Path))
def demo(url: str, data_dir: Path) -> None:
    """Feed a simulated fleet to a collector until stopped."""
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, end)
    with ExitStack() as open_spools:
        servers = list(fleet(_begun(data_dir)))
        feeds = [Feed(one, url, open_spools.enter_context(Spool(data_dir / f"{one.name}.db"))) for one in servers]
        for feed in feeds:
            if not stop.is_set():
                feed.catch_up()
        while not stop.wait(LIVE_EVERY_S):
            for feed in feeds:
                feed.go_on()


class Feed:
    """One simulated server's pipeline and its way to the collector."""

    def __init__(self, server: DemoServer, url: str, spool: Spool) -> None:
        self._opener = opener_of("simulated", "demo")
        self._server = server
        self._spool = spool
        self._pipeline = Pipeline(spool, Identity(server=server.name, pool="demo", simulated=True), STEP_NS)
        self._uplink = Uplink(url, spool, wall_ns, random.SystemRandom())
        self._uplink.backfill = True
        self._live: Source = self._opener(server.table)

    def catch_up(self) -> None:
        """The hours before now, or since the demonstration last ran."""
        now_s = wall_ns() // NS_PER_S
        from_s = max(now_s - PAST_S, self._pipeline.last_ns // NS_PER_S)
        span = {**self._server.table, "from_s": from_s, "until_s": now_s, "period_s": PAST_PERIOD_S}
        recording = self._opener(span)
        recording.declares = self._live.declares
        replay_source(self._pipeline, recording, self._uplink, self._spool, lambda _windows, _at_ns: None, last=False)

    def go_on(self) -> None:
        """What the server says now."""
        now_ns = wall_ns()
        try:
            self._pipeline.feed(self._live.read(), now_ns)
        except SourceGone:
            return
        self._pipeline.tick(now_ns, now_ns)
        self._uplink.send_once()


def _begun(data_dir: Path) -> int:
    """When this demonstration first ran: its release stays where it is when it is started again."""
    mark = data_dir / "begun"
    if not mark.exists():
        mark.write_text(str(int(time.time_ns() // NS_PER_S)), encoding="ascii")
    return int(mark.read_text(encoding="ascii"))
