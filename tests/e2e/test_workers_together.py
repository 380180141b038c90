"""`collector run --workers 2`: one collector to its agents, its reader and its service manager, however it ends."""

import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from fixtures.collectors import DEADLINE_S, Collector, in_this_process, run
from fixtures.fleet_load import Fleet, answers, assert_same, deliver, simulated_fleet
from fixtures.processes import Command, address_of, free_port, running, until
from joulefleet.delivery import GOODBYE, STREAM_PATH

KILLS = 6
NOW_NS = 1_790_000_000_000_000_000


def words(data: Path, port: int = 0) -> tuple[str, ...]:
    return ("collector", "run", "--workers", "2", "--data-dir", str(data), "--port", str(port))


@contextmanager
def together(tmp_path: Path, **environment: str) -> Iterator[tuple[Command, Collector]]:
    """A collector of three processes that listens."""
    with running(tmp_path / "collector", *words(tmp_path / "data"), **environment) as command:
        yield command, Collector(address_of(command))
        until(lambda: not family(command), "all its processes to end")


def family(command: Command) -> list[psutil.Process]:
    """The processes of this command that still run, the first one first."""
    found = [one for one in psutil.process_iter() if one.pid == command.process.pid or _is_worker(one, command)]
    return [one for one in found if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def _is_worker(one: psutil.Process, command: Command) -> bool:
    # A worker whose parent was killed has another one: its words tell whose it was.
    try:
        return one.cmdline()[-len(command.words) :] == list(command.words)
    except psutil.Error:
        return False


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return simulated_fleet(tmp_path_factory.mktemp("fleet"), servers=24, days=0.02)


@pytest.fixture(scope="module")
def expected(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What one process answers."""
    with in_this_process(tmp_path_factory.mktemp("one"), lambda: NOW_NS) as collector:
        deliver(fleet, collector.url)
        return answers(collector)


def assert_whole(collector: Collector, fleet: Fleet, expected: list[dict[str, object]]) -> None:
    """Every window once, and every sum."""
    assert sorted(one.encode() for one in collector.windows()) == sorted(
        one for several in fleet.values() for one in several
    )
    assert_same(answers(collector), expected)


def test_both_ways_give_the_sums_of_one_process_and_both_workers_take_part(
    tmp_path: Path, fleet: Fleet, expected: list[dict[str, object]]
) -> None:
    with together(tmp_path) as (command, collector):
        before = {one.pid: sum(one.cpu_times()[:2]) for one in family(command)}
        assert len(before) == 3
        deliver(fleet, collector.url)
        assert_whole(collector, fleet, expected)
        # Nothing is counted twice where all of it comes again.
        deliver(fleet, collector.url)
        assert_whole(collector, fleet, expected)
        worked = [one.pid for one in family(command) if sum(one.cpu_times()[:2]) > before[one.pid] + 0.05]
        assert len(worked) == 3
        assert command.end() == 0, command.err
    assert command.err == ""


def test_told_to_end_it_says_goodbye_to_every_stream(tmp_path: Path) -> None:
    with together(tmp_path) as (command, collector), ExitStack() as held:
        address = "ws" + collector.url.removeprefix("http") + STREAM_PATH
        streams = [held.enter_context(connect(address, proxy=None)) for _ in range(12)]
        for stream in streams:
            assert stream.recv(timeout=DEADLINE_S)
        with ThreadPoolExecutor(len(streams)) as pool:
            told = [pool.submit(reason_of_end, stream) for stream in streams]
            assert command.end() == 0, command.err
            ends = [one.result(DEADLINE_S) for one in told]
        assert all(reason.startswith(GOODBYE) for reason in ends)


def reason_of_end(stream: ClientConnection) -> str:
    with pytest.raises(ConnectionClosed) as closed:
        stream.recv(timeout=DEADLINE_S)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.reason


SCRAPES = 16
"""Each may come to either worker: that all come to one is less likely than one in 30,000."""


def test_every_scrape_tells_the_counts_of_all_workers(tmp_path: Path, fleet: Fleet) -> None:
    few = {server: several[:6] for server, several in fleet.items()}
    windows = sum(len(several) for several in few.values())
    with together(tmp_path) as (command, collector), ExitStack() as held:
        deliver(few, collector.url)
        deliver(few, collector.url)
        address = "ws" + collector.url.removeprefix("http") + STREAM_PATH
        for _ in range(8):
            held.enter_context(connect(address, proxy=None)).recv(timeout=DEADLINE_S)
        until(lambda: collector.metrics()["streams_open"] == 8, "the streams of before to be seen as ended")
        pages = [collector.metrics() for _ in range(SCRAPES)]
        for name in ("windows_accepted_total", "windows_known_total"):
            assert {page[name] for page in pages} == {windows}
        for name, number in (("streams_open", 8), ("batches_waiting", 0), ("store_errors_total", 0)):
            assert {page[name] for page in pages} == {number}
        for name in ("batches_total 200", "batch_bytes_total", "commit_duration_seconds_count"):
            assert len({page[name] for page in pages}) == 1 and pages[0][name] > 0
        cpu_s = [page["process_cpu_seconds_total"] for page in pages]
        assert cpu_s == sorted(cpu_s)
        assert sum(sum(one.cpu_times()[:2]) for one in family(command)) >= cpu_s[-1] > 0
        assert command.end() == 0, command.err


def test_servers_are_retired_by_the_writer_and_every_worker_knows(tmp_path: Path, fleet: Fleet) -> None:
    few = {server: several[:2] for server, several in list(fleet.items())[:3]}
    gone = next(iter(few))
    with together(tmp_path) as (command, collector):
        deliver(few, collector.url)

        def statuses() -> set[str]:
            found = [{one["server"]: one["status"] for one in collector.agents()} for _ in range(SCRAPES)]
            return {states[gone] for states in found}

        retire = ("agents", "retire", "--collector", collector.url, gone)
        run(*retire)
        assert statuses() == {"retired"}
        run(*retire, "--undo")
        assert statuses() == {"silent"}
        run(*retire)
        assert command.end() == 0, command.err
    with together(tmp_path) as (command, collector):
        assert statuses() == {"retired"}
        assert command.end() == 0, command.err


def test_what_is_done_to_the_store_beside_it_finds_it_whole(tmp_path: Path, fleet: Fleet) -> None:
    half = {server: several[:8] for server, several in fleet.items()}
    rest = {server: several[8:16] for server, several in fleet.items()}
    place, copy = ("--data-dir", str(tmp_path / "data")), tmp_path / "copy" / "joulefleet.db"
    copy.parent.mkdir()
    with together(tmp_path) as (command, collector), ThreadPoolExecutor(1) as pool:
        deliver(half, collector.url)
        load = pool.submit(deliver, rest, collector.url)
        run("store", "info", *place)
        run("store", "backup", str(copy), *place)
        run("store", "compact", *place)
        load.result(DEADLINE_S)
        with urlopen(f"{collector.url}/-/ready", timeout=DEADLINE_S) as answer:
            assert answer.status == 200
        assert len(collector.windows()) == 16 * len(fleet)
        assert command.end() == 0, command.err
    with running(tmp_path / "copied", *words(copy.parent)) as command:
        assert len(Collector(address_of(command)).windows()) >= 8 * len(fleet)
        assert command.end() == 0, command.err


def test_a_worker_that_is_killed_ends_the_whole_and_says_so(tmp_path: Path) -> None:
    with together(tmp_path) as (command, _):
        victim = family(command)[1]
        victim.kill()
        assert command.wait() == 1
        assert f"worker {victim.pid} was killed by SIGKILL" in command.err
        assert len(command.err.strip().splitlines()) == 1


def test_a_worker_that_is_told_to_end_ends_the_whole_cleanly(tmp_path: Path) -> None:
    with together(tmp_path) as (command, _):
        family(command)[2].terminate()
        assert command.wait() == 0, command.err


def test_nobody_is_left_where_the_writer_is_killed(tmp_path: Path) -> None:
    with together(tmp_path) as (command, _):
        assert command.kill()


def test_killed_at_any_instant_it_loses_nothing_it_answered_and_counts_nothing_twice(
    tmp_path: Path, fleet: Fleet, expected: list[dict[str, object]]
) -> None:
    chance, port, stored = random.Random(17), free_port(), [0]
    lock = threading.Lock()

    def told(windows: int) -> None:
        with lock:
            stored[0] += windows

    total = sum(len(several) for several in fleet.values())
    url, data = f"http://127.0.0.1:{port}", tmp_path / "data"
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(deliver, fleet, url, told)
        for number in range(KILLS):
            with running(tmp_path / "collector", *words(data, port)) as command:
                address_of(command)
                victim = family(command)[number % 3]
                # Each finds a part of the work that is left to be done, and breaks it off somewhere.
                goal = stored[0] + chance.randint(1, (total - stored[0]) // (KILLS + 2 - number))
                until(lambda goal=goal: stored[0] >= goal, "some windows to be stored")
                victim.kill()
                assert command.wait() != 0
                until(lambda command=command: not family(command), "all its processes to end")
        assert not load.done(), "all was stored before the last kill"
        with running(tmp_path / "collector", *words(data, port)) as command:
            load.result(DEADLINE_S)
            assert_whole(Collector(address_of(command)), fleet, expected)
            assert command.end() == 0, command.err


def test_the_service_manager_is_told_when_all_workers_listen_and_that_they_live(tmp_path: Path) -> None:
    place = str(tmp_path / "manager")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(place)
        manager.settimeout(DEADLINE_S)
        with together(tmp_path, NOTIFY_SOCKET=place) as (command, collector):
            assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"WATCHDOG=1"]
            assert all(_listens(worker) for worker in family(command)[1:])
            assert collector.ask()["rows"] == []
            assert command.end() == 0
            assert manager.recv(100) == b"STOPPING=1"


def _listens(worker: psutil.Process) -> bool:
    return any(one.status == psutil.CONN_LISTEN for one in worker.net_connections("tcp"))


@pytest.mark.parametrize("trouble", ["store", "port", "keys"])
def test_what_keeps_it_from_beginning_is_told_once(tmp_path: Path, trouble: str) -> None:
    data, config = tmp_path / "data", tmp_path / "collector.toml"
    config.write_text('[auth]\nkey_file = "nowhere"\n' if trouble == "keys" else "")
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        if trouble == "store":
            (data / "joulefleet.db").mkdir(parents=True)
        port = other.getsockname()[1] if trouble == "port" else 0
        with running(tmp_path / "collector", *words(data, port), "--config", str(config)) as command:
            assert command.wait() == 2
            assert len(command.err.strip().splitlines()) == 1
            until(lambda: not family(command), "all its processes to end")


def test_one_worker_is_one_process(tmp_path: Path) -> None:
    alone = ("collector", "run", "--workers", "1", "--data-dir", str(tmp_path / "data"), "--port", "0")
    with running(tmp_path / "collector", *alone) as command:
        address_of(command)
        assert len(family(command)) == 1
        assert command.end() == 0


def test_the_file_tells_the_number_too(tmp_path: Path, fleet: Fleet) -> None:
    config = tmp_path / "collector.toml"
    config.write_text("workers = 3\n")
    few = {server: several[:4] for server, several in list(fleet.items())[:6]}
    plain = ("collector", "run", "--data-dir", str(tmp_path / "data"), "--port", "0", "--config", str(config))
    with running(tmp_path / "collector", *plain) as command:
        collector = Collector(address_of(command))
        assert len(family(command)) == 4
        deliver(few, collector.url)
        assert {one.server for one in collector.windows()} == few.keys()
        # What is done to the store from beside finds it as it is with one process.
        run("store", "info", "--data-dir", str(tmp_path / "data"))
        assert command.end() == 0
