"""Windows that spoil a commit, of the store's or of the collector's making, and windows that come twice at once."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest

from fixtures import faulty_collector
from fixtures.collectors import COMMAND, Collector, in_this_process, run
from fixtures.disks import small_disk
from fixtures.faulty_collector import is_poison
from fixtures.outage import assert_bounded, collecting_by, delivering, influx_config, rss_kb
from fixtures.processes import address_of, collecting, running
from fixtures.services import Server
from fixtures.sums import assert_sums, ready, send
from joulefleet.window import Window, decode_json
from joulefleet_agent.clock import wall_ns
from joulefleet_collector.store.set_aside import FILE_NAME
from joulefleet_collector.store.store import DAY_NS

KEPT_DAYS = 30


FAULTY = (COMMAND[0], faulty_collector.__file__)
"""Runs a collector that fails at some windows."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """A collector with the embedded store, to which nothing happens."""
    with in_this_process(tmp_path_factory.mktemp("calm") / "data", wall_ns) as collector:
        yield collector


@pytest.mark.parametrize("fault", ["accounting", "storing"])
def test_windows_at_which_the_collector_itself_fails_wait_and_the_rest_flows(
    fault: str, calm: Collector, tmp_path: Path
) -> None:
    words = ("collector", "run", "--data-dir", str(tmp_path / "data"), "--port", "0")
    with ExitStack() as stack:
        command = stack.enter_context(running(tmp_path / "collector", *words, program=FAULTY, FAULT=fault))
        collector = Collector(address_of(command))
        agent = stack.enter_context(delivering(tmp_path, collector.url, fault))
        agent.delivers(but=6)
        windows = agent.ends(collector)
        poison = [one for one in windows if is_poison(one)]
        assert len(poison) >= 4 and all(one in agent.waiting() for one in poison)
        assert "a fault on purpose" in command.err
        assert_sums(collector, calm, fault, [one for one in windows if one not in poison])
        assert (ready(collector), command.end()) == (200, 0)


def test_rows_that_influxdb_refuses_are_set_aside_and_the_rest_flows(
    influxdb_1: Server, calm: Collector, tmp_path: Path
) -> None:
    config = influx_config(tmp_path, influxdb_1.url, tmp_path.name, KEPT_DAYS)
    good, old = recording(tmp_path)
    with ExitStack() as stack:
        command, collector = stack.enter_context(collecting_by(config))
        agent = stack.enter_context(delivering(tmp_path, collector.url, "live"))
        run(*replay(tmp_path / "recording.jsonl", collector, tmp_path / "replay.db"))
        agent.delivers()
        assert_sums(collector, calm, "live", agent.ends(collector))
        assert_sums(collector, calm, good[0].server, good)
        assert ready(collector) == 200
        assert "lines, set aside in" in command.err
    aside = (tmp_path / "data" / FILE_NAME).read_text()
    assert "beyond retention policy" in aside
    assert all(f" {one.start_ns}\n" in aside for one in old)
    assert not any(f" {one.start_ns}\n" in aside for one in good)


def test_rows_that_can_be_set_aside_nowhere_wait_with_their_agent_and_the_rest_flows(
    influxdb_1: Server, calm: Collector, tmp_path: Path
) -> None:
    _, old = recording(tmp_path)
    with small_disk(tmp_path / "disk", 2) as disk, ExitStack() as stack:
        config = influx_config(disk.folder, influxdb_1.url, tmp_path.name, KEPT_DAYS)
        command, collector = stack.enter_context(collecting_by(config))
        before_kb = rss_kb(command)
        disk.fill()
        agent = stack.enter_context(delivering(tmp_path, collector.url, "beside"))
        status, answer = send(collector, old, backfill=True)
        assert status == 503
        assert "No space left on device; free space on its disk" in answer
        agent.delivers()
        disk.make_room()
        assert send(collector, old, backfill=True)[0] == 200
        assert_sums(collector, calm, "beside", agent.ends(collector))
        aside = (disk.folder / "data" / FILE_NAME).read_text()
        assert all(f" {one.start_ns}\n" in aside for one in old)
        assert_bounded(command, before_kb)


def recording(folder: Path) -> tuple[list[Window], list[Window]]:
    """Windows of one server in `recording.jsonl`: some of late, and every third older than the store keeps rows."""
    path, begin_ns = folder / "recording.jsonl", (wall_ns() // DAY_NS - 1) * DAY_NS
    run("simulate", "--fast", "--servers=1", "--days=0.005", "--step=10", "--out", str(path))
    windows = [decode_json(line) for line in path.read_bytes().splitlines()]
    shift_ns, good, old = begin_ns - windows[0].start_ns, [], []
    for number, one in enumerate(windows):
        by_ns = shift_ns - (2 * KEPT_DAYS * DAY_NS if number % 3 == 2 else 0)
        moved = msgspec.structs.replace(one, start_ns=one.start_ns + by_ns)
        (old if number % 3 == 2 else good).append(moved)
    lines = (one.encode_json() + b"\n" for one in sorted([*good, *old], key=lambda one: one.start_ns % DAY_NS))
    path.write_bytes(b"".join(lines))
    return good, old


@pytest.mark.parametrize("kind", ["two collectors on one InfluxDB", "one collector with the embedded store"])
def test_a_fleet_that_is_sent_twice_at_once_counts_once(
    kind: str, request: pytest.FixtureRequest, calm: Collector, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.jsonl"
    name = kind.partition(" ")[0]
    run("simulate", "--fast", f"--name={name}", "--servers=2", "--days=0.01", "--step=10", "--out", str(file))
    windows = [decode_json(line) for line in file.read_bytes().splitlines()]
    with ExitStack() as stack:
        if name == "two":
            url = request.getfixturevalue("influxdb_1").url
            doors = [stack.enter_context(by_influxdb(tmp_path / place, url, tmp_path.name)) for place in "ab"]
        else:
            doors = [stack.enter_context(collecting(tmp_path / "collector", tmp_path / "data"))[1]] * 2
        replays = [
            stack.enter_context(running(tmp_path / f"replay-{number}", *replay(file, door, tmp_path / f"{number}.db")))
            for number, door in enumerate(doors)
        ]
        assert [(one.wait(), one.err) for one in replays] == [(0, "")] * 2
        for server in sorted({one.server for one in windows}):
            own = [one for one in windows if one.server == server]
            for door in dict.fromkeys(doors):
                assert_sums(door, calm, server, own)


def replay(file: Path, collector: Collector, spool: Path) -> tuple[str, ...]:
    """The command that sends these windows."""
    return ("replay", "windows", str(file), "--collector", collector.url, "--spool", str(spool))


@contextmanager
def by_influxdb(folder: Path, url: str, database: str) -> Iterator[Collector]:
    """A collector with its own folder in front of an InfluxDB."""
    folder.mkdir()
    with collecting_by(influx_config(folder, url, database)) as (_, collector):
        yield collector
