"""Disks that are full or read-only, under a collector and under an agent: nothing is lost, and the mend is told."""

import http.client
import random
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

from fixtures.collectors import Collector
from fixtures.disks import small_disk
from fixtures.processes import SIMULATED, agent_config, collecting, running, until
from fixtures.sums import assert_whole
from joulefleet.delivery import MSGPACK_TYPE, pack
from joulefleet.describe import Meter
from joulefleet.units import NS_PER_S
from joulefleet.window import MeterWindow, Window
from joulefleet_agent.clock import wall_ns
from joulefleet_agent.spool import Spool

MIB = 1024 * 1024


def test_a_collector_on_a_full_disk_says_so_and_the_agent_keeps_everything_until_there_is_room(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", 2) as disk,
        collecting(tmp_path / "collector", disk.folder / "data") as (_, door),
    ):
        config = str(agent_config(tmp_path, door.url, SIMULATED, step_s=1))
        with running(tmp_path / "agent", "agent", "run", "--config", config) as agent:
            until(door.windows, "a first window")
            disk.fill()
            until(lambda: "HTTP 503" in agent.err, "the agent to be refused")
            status, retry_after, answer = send(door, a_window(0))
            assert (status, retry_after) == (503, "10")
            assert "no space is left" in answer and "free space on its disk" in answer
            before = len(door.windows())
            disk.make_room()
            until(lambda: "reached again" in agent.err, "the agent to be heard again")
            until(lambda: len(door.windows()) > before + 3, "what waited")
            assert agent.end() == 0
        assert_whole(door.windows())


def test_an_agent_on_a_full_disk_holds_its_windows_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2) as disk, collecting(tmp_path / "collector", tmp_path / "data") as (_, door):
        spool = str(disk.folder / "spool.db")
        config = str(agent_config(tmp_path, door.url, SIMULATED, step_s=1, spool=spool))
        with running(tmp_path / "agent", "agent", "run", "--config", config) as agent:
            until(door.windows, "a first window")
            disk.fill()
            until(lambda: " 3 windows are held in memory" in agent.err, "the spool to be refused")
            assert f"spool {spool}: database or disk is full" in agent.err
            before = len(door.windows())
            disk.make_room()
            until(lambda: len(door.windows()) > before + 3, "what was held")
            assert agent.end() == 0
        assert_whole(door.windows())
        assert door.windows()[-1].losses.windows == 0


def test_a_spool_stops_at_95_per_cent_of_its_disk_and_counts_what_it_lets_go(tmp_path: Path) -> None:
    chance, now_ns, number = random.Random(3), wall_ns(), 1_000
    with small_disk(tmp_path / "disk", 48) as disk, Spool(disk.folder / "spool.db") as spool:
        least_free = 48 * MIB
        for minute in range(number):
            spool.commit(b"", [a_window(minute, chance.randbytes(30_000).hex())], now_ns)
            least_free = min(least_free, disk.free_bytes)
        kept, lost = spool.waiting(number, now_ns, 64 * MIB), spool.losses()
    assert 0 < lost.windows == number - len(kept)
    assert (lost.energy_uj, lost.seconds) == (lost.windows * 600_000_000, lost.windows * 60)
    assert [one.start_ns for one in kept] == [a_window(minute).start_ns for minute in range(lost.windows, number)]
    # What stands in SQLite's log beside the file is not yet in the file when room is looked for.
    assert least_free >= 0.05 * 48 * MIB - MIB
    assert len(kept) * 60_000 > 0.75 * 48 * MIB


def test_a_disk_that_may_only_be_read_is_told_in_one_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        data = disk.folder / "data"
        with collecting(tmp_path / "first", data) as (command, door):
            assert send(door, a_window(0))[0] == 200
            assert command.end() == 0
        disk.make_read_only()
        for folder in (data, disk.folder / "new"):
            with running(tmp_path / "second", "collector", "run", "--data-dir", str(folder)) as collector:
                assert collector.wait() == 2
            assert_one_sentence(collector.err, str(folder))
        config = str(agent_config(tmp_path, "http://127.0.0.1:9", SIMULATED, spool=str(disk.folder / "spool.db")))
        with running(tmp_path / "agent", "agent", "run", "--config", config) as agent:
            assert agent.wait() == 2
        assert_one_sentence(agent.err, str(disk.folder / "spool.db"))


def a_window(minute: int, ballast: str = "") -> Window:
    """A window of 600 J of an hour ago and so many minutes."""
    meter = Meter(id="m", kind="server", grade="counter", sensor_class="platform")
    told = MeterWindow(meter=meter, energy_uj=600_000_000, last_uj=600_000_000, covered_ns=60 * NS_PER_S)
    start_ns = wall_ns() // (3_600 * NS_PER_S) * 3_600 * NS_PER_S + (minute - 60) * 60 * NS_PER_S
    facts = {"ballast": ballast} if ballast else {}
    return Window(server="s", timeline=1, start_ns=start_ns, step_ns=60 * NS_PER_S, meters=(told,), facts=facts)


def send(collector: Collector, window: Window) -> tuple[int, str | None, str]:
    """POST a window. Status, Retry-After, body."""
    with closing(http.client.HTTPConnection(urlsplit(collector.url).netloc, timeout=30)) as connection:
        headers = {"Content-Type": MSGPACK_TYPE, "Content-Encoding": "zstd"}
        connection.request("POST", "/v1/windows", pack([window.encode()]), headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Retry-After"), answer.read().decode()


def assert_one_sentence(err: str, part: str) -> None:
    """The error is the last line, names this, and no traceback is before it."""
    assert err.splitlines()[-1].startswith("Error: ")
    assert part in err.splitlines()[-1] and "Traceback" not in err
