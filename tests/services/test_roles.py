"""Collectors of the roles ingest and watch, each a process, on one real InfluxDB: they answer as one of all does."""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from fixtures.collectors import DEADLINE_S, Collector
from fixtures.fleet_load import Fleet, answers, assert_same, deliver, simulated_fleet
from fixtures.processes import Command, address_of, running, until
from fixtures.services import Server
from joulefleet.delivery import MSGPACK_TYPE, pack
from joulefleet.window import decode
from joulefleet_agent.link import best_link
from joulefleet_agent.spool import Spool
from joulefleet_agent.uplink import Uplink
from joulefleet_collector.store.freshness import Marks, day_tokens
from joulefleet_collector.store.influx_config import InfluxConfig
from joulefleet_collector.store.influx_sums import EVER_NS, marks
from joulefleet_collector.store.influx_wire import Wire

QUICK = Path(__file__).parents[1] / "fixtures" / "quick_rounds.py"
CONFIG = '[store]\nkind = "influxdb"\n'


class Fleets:
    """Collectors on one InfluxDB, each in a folder of its own."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = folder, server

    @contextmanager
    def collector(self, role: str, database: str, name: str, *options: str) -> Iterator[tuple[Command, Collector]]:
        """One that listens, with quick rounds; it has to end cleanly."""
        config = self.folder / "collector.toml"
        config.write_text(CONFIG)
        words = ["collector", "run", "--config", str(config), "--port", "0", "--data-dir", str(self.folder / name)]
        where = {"INFLUX_URL": self.server.url, "INFLUX_DATABASE": database}
        with running(
            self.folder / name, *words, "--role", role, *options, program=(sys.executable, str(QUICK)), **where
        ) as command:
            yield command, Collector(address_of(command))
            assert command.end() == 0, command.err

    def marks(self, database: str) -> Marks:
        """What this database says of its sums."""
        with closing(Wire(InfluxConfig(url=self.server.url, database=database))) as wire:
            return marks(wire, *EVER_NS)

    def until_all_is_added_up(self, database: str) -> None:
        def added_up() -> bool:
            now = self.marks(database)
            over = {day: token for day, token in day_tokens(now.touched).items() if day in now.days}
            return bool(now.days) and now.hours == now.touched and now.days == over

        until(added_up, "the sums of all hours, and of days")


@pytest.fixture
def fleets(tmp_path: Path, influxdb_1: Server) -> Fleets:
    return Fleets(tmp_path, influxdb_1)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return simulated_fleet(tmp_path, servers=4, days=1.2, step_s=1800)


def test_two_that_take_and_one_that_watches_answer_as_one_that_does_all(fleets: Fleets, fleet: Fleet) -> None:
    split, alone = f"{fleets.folder.name}_split", f"{fleets.folder.name}_alone"
    late = {server: [several.pop(7)] for server, several in fleet.items()}
    again = {server: several[3:5] for server, several in fleet.items()}
    first, second = [dict(list(fleet.items())[part]) for part in (slice(2), slice(2, None))]
    with (
        fleets.collector("all", alone, "one") as (_, one),
        fleets.collector("ingest", split, "first") as (_, in_first),
        fleets.collector("ingest", split, "second") as (_, in_second),
    ):
        deliver(fleet, one.url)
        deliver(first, in_first.url)
        deliver(second, in_second.url)
        assert fleets.marks(split).hours == {}, "only the watch makes sums"
        with fleets.collector("watch", split, "watch") as (_, watch):
            assert_same(answers(watch), answers(one))
            fleets.until_all_is_added_up(split)
            assert_same(answers(watch), answers(one))
            before = fleets.marks(split)
            # Each comes late to the collector that did not have its server before, and some that are there come again.
            for part, other in ((first, in_second), (second, in_first)):
                deliver({server: late[server] + again[server] for server in part}, other.url)
            deliver(late, one.url)
            expected = answers(one)
            assert_same(answers(watch), expected)
            fleets.until_all_is_added_up(split)
            assert fleets.marks(split).hours != before.hours
            # A day is added up after its hours.
            until(lambda: fleets.marks(split).days != before.days, "the day of the late windows to be added up again")
            assert_same(answers(watch), expected)
            # The windows that came late are in these figures.
            assert sum(
                row["window_s"] for row in watch.ask(by="server")["ledger"] if row["boundary"] == "server"
            ) == 1800.0 * sum(len(several) + 1 for several in fleet.values())


def test_each_role_names_the_other_for_what_it_does_not_do(fleets: Fleets, fleet: Fleet) -> None:
    database = fleets.folder.name
    with (
        fleets.collector("ingest", database, "ingest") as (_, ingest),
        fleets.collector("watch", database, "watch") as (_, watch),
    ):
        for path in ("/v1/usage", "/v1/agents", "/v1/windows"):
            assert refused(Request(ingest.url + path)) == (
                404,
                "this collector has the role ingest; ask the one of the role watch",
            )
        body, headers = (
            pack(next(iter(fleet.values()))[:1], backfill=True),
            {"Content-Type": MSGPACK_TYPE, "Content-Encoding": "zstd"},
        )
        sentence = "this collector has the role watch; send windows to one of the role ingest"
        assert refused(Request(watch.url + "/v1/windows", body, headers)) == (421, sentence)
        assert refused(Request(watch.url + "/v1/stream")) == (421, sentence)
        deliver({server: several[:2] for server, several in fleet.items()}, ingest.url)
        counted, seen = ingest.metrics(), watch.metrics()
        assert counted["windows_accepted_total"] == 2 * len(fleet) and seen["windows_accepted_total"] == 0
        assert seen["agents silent"] == len(fleet) and not [name for name in counted if name.startswith("agents")]
        assert seen["batches_total 421"] == 2
        for one in (ingest, watch):
            for path in ("/-/healthy", "/-/ready"):
                with urlopen(one.url + path, timeout=DEADLINE_S) as answer:
                    assert answer.status == 200


def refused(request: Request) -> tuple[int, str]:
    """Status and sentence of a refusal."""
    with pytest.raises(HTTPError) as error:
        urlopen(request, timeout=DEADLINE_S)
    return error.value.code, json.loads(error.value.read())["error"]


def test_an_agent_that_meets_a_watch_keeps_its_windows_and_goes_on_to_its_next_collector(
    fleets: Fleets, fleet: Fleet, tmp_path: Path
) -> None:
    database, windows = fleets.folder.name, [decode(body) for body in next(iter(fleet.values()))]
    with (
        fleets.collector("ingest", database, "ingest") as (_, ingest),
        fleets.collector("watch", database, "watch") as (_, watch),
        Spool(tmp_path / "spool.db") as spool,
    ):
        now_ns = windows[-1].end_ns
        spool.commit(b"", windows, now_ns)
        uplink = Uplink(
            [best_link(one.url, random.Random(1)) for one in (watch, ingest)], spool, lambda: now_ns, live=False
        )
        wait_s = uplink.send_once()
        assert wait_s is not None and 0 < wait_s < 5
        assert (spool.depth()[0], uplink.url) == (len(windows), ingest.url)
        while uplink.send_once() is not None:
            pass
        assert spool.depth()[0] == 0
        uplink.close()
        assert watch.ask(by="server")["ledger"][0]["window_s"] == 1800.0 * len(windows)


def test_several_workers_write_one_influxdb_each_by_itself(fleets: Fleets, fleet: Fleet) -> None:
    several, alone = f"{fleets.folder.name}_several", f"{fleets.folder.name}_alone"
    with (
        fleets.collector("all", several, "several", "--workers", "2") as (_, together),
        fleets.collector("all", alone, "one") as (_, one),
    ):
        for collector in (together, one):
            deliver(fleet, collector.url)
        assert_same(answers(together), answers(one))
        windows = sum(len(several) for several in fleet.values())
        assert {together.metrics()["windows_accepted_total"] for _ in range(16)} == {windows}
        fleets.until_all_is_added_up(several)
        assert_same(answers(together), answers(one))
