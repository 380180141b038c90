"""Whose processes are whose: in a tree as the kernel shows it, and for real on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from joulefleet.describe import Engine
from joulefleet.reading import Failure, MeterReading, WorkReading
from joulefleet_agent.processes import LOOKS_AGAIN, Processes

A = Engine(id="a", software="vllm", port=8000)
B = Engine(id="b", software="vllm", port=8001)
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
CHILD = """
import socket, subprocess, sys
server = socket.create_server(("127.0.0.1", 0))
worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print(server.getsockname()[1], worker.pid, flush=True)
input()
worker.communicate()
"""


class Kernel:
    """A made /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "net").mkdir(parents=True)
        self.sockets: list[str] = []

    def listen(self, port: int, inode: int, address: str = "0100007F", state: str = "0A", table: str = "tcp") -> None:
        rest = "00000000:00000000 00:00000000 00000000  1000 0"
        self.sockets.append(f"   0: {address}:{port:04X} 00000000:0000 {state} {rest} {inode} 1\n")
        (self.root / "net" / table).write_text(HEAD + "".join(self.sockets))

    def process(
        self, pid: int, parent: int = 1, inodes: tuple[int, ...] = (), group: str = "/", started: int = 7
    ) -> None:
        own = self.root / str(pid)
        (own / "fd").mkdir(parents=True, exist_ok=True)
        for number, inode in enumerate(inodes):
            (own / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
        rest = " ".join(["S", str(parent), *["0"] * 17, str(started), "0"])
        (own / "stat").write_text(f"{pid} (a) b ({pid}) {rest}\n")
        (own / "cgroup").write_text(f"0::{group}\n")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path / "proc")


def told(did: dict[str, int] | None, meter: str = "gpu0") -> MeterReading:
    return MeterReading(meter=meter, counter_uj=1, activity_ns=did)


def named(processes: Processes, did: dict[str, int], *engines: Engine) -> dict[str, int] | None:
    (reading,) = processes.named([told(did)], engines or (A, B))
    assert isinstance(reading, MeterReading)
    return reading.activity_ns


def test_a_worker_belongs_to_the_server_that_it_descends_from(kernel: Kernel) -> None:
    kernel.listen(8000, 11)
    kernel.listen(8001, 12)
    kernel.process(100, inodes=(5, 11))
    kernel.process(101, parent=100)
    kernel.process(102, parent=101)
    kernel.process(200, inodes=(12,))
    kernel.process(300)
    did = {"101": 1, "102": 2, "200": 4, "300": 8, "999": 16}
    assert named(Processes(kernel.root), did) == {"a": 3, "b": 4, "": 24}


def test_an_engine_that_was_found_anywhere_has_0_where_it_did_nothing(kernel: Kernel) -> None:
    kernel.listen(8000, 11)
    kernel.listen(8001, 12)
    kernel.process(100, inodes=(11,))
    kernel.process(200, inodes=(12,))
    processes = Processes(kernel.root)
    one, other = processes.named([told({"100": 5}), told({"200": 6}, "gpu1")], (A, B))
    assert [one.activity_ns, other.activity_ns] == [{"a": 5, "b": 0}, {"a": 0, "b": 6}]
    (alone,) = processes.named([told({"100": 5})], (A, B))
    assert alone.activity_ns == {"a": 5, "b": 0}


def test_the_unit_of_an_engine_tells_without_its_sockets(kernel: Kernel) -> None:
    kernel.process(100, group="/system.slice/vllm-a.service")
    kernel.process(200, group="/vllm-b.slice/docker-0123.scope")
    kernel.process(300, group="/system.slice/vllm-a.service.d")
    units = [msgspec.structs.replace(one, unit=unit) for one, unit in ((A, "vllm-a.service"), (B, "vllm-b.slice"))]
    processes = Processes(kernel.root)
    assert named(processes, {"100": 1, "200": 2, "300": 4}, *units) == {"a": 1, "b": 2, "": 4}
    assert not processes.hidden


def test_what_listens_elsewhere_is_no_port_of_this_server(kernel: Kernel) -> None:
    kernel.listen(8000, 11, address="0700000A")
    kernel.listen(8000, 12, state="01")
    kernel.listen(8001, 13, address="00000000")
    for pid, inode in ((100, 11), (200, 12), (300, 13)):
        kernel.process(pid, inodes=(inode,))
    assert named(Processes(kernel.root), {"100": 1, "200": 2, "300": 4}) == {"b": 4, "": 3}


def test_a_server_that_listens_later_is_found_then(kernel: Kernel) -> None:
    kernel.process(100, inodes=(11,))
    processes = Processes(kernel.root)
    assert named(processes, {"100": 1}) == {"": 1}
    kernel.listen(8000, 11)
    answers = [named(processes, {"100": 1}) for _ in range(LOOKS_AGAIN)]
    assert answers == [{"": 1}] * (LOOKS_AGAIN - 1) + [{"a": 1}]


def test_a_number_that_another_process_has_now_is_looked_at_anew(kernel: Kernel) -> None:
    kernel.listen(8000, 11)
    kernel.process(100, inodes=(11,))
    processes = Processes(kernel.root)
    assert named(processes, {"100": 1}) == {"a": 1}
    (kernel.root / "100" / "fd" / "0").unlink()
    kernel.process(100, started=8)
    assert named(processes, {"100": 1}) == {"": 1}


def test_the_last_of_what_a_process_did_is_told_after_its_end(kernel: Kernel) -> None:
    kernel.listen(8000, 11)
    kernel.process(100, inodes=(11,))
    processes = Processes(kernel.root)
    assert named(processes, {"100": 1}) == {"a": 1}
    (kernel.root / "100").rename(kernel.root / "ended")
    assert named(processes, {"100": 1}) == {"a": 1}
    assert named(processes, {}) == {}
    assert named(processes, {"100": 1}) == {"": 1}, "it is forgotten once nothing is told of it"


def test_a_single_engine_has_all_and_needs_no_look(kernel: Kernel) -> None:
    assert named(Processes(kernel.root / "nothing"), {"100": 1}, A) is None


def test_what_tells_nothing_of_processes_stays_as_it_is(kernel: Kernel) -> None:
    readings = [told(None), Failure(subject="gpu1", code="gpu_lost")]
    assert Processes(kernel.root).named(readings, (A, B)) == readings
    assert Processes(kernel.root).named([told({}), *readings], (A, B))[1:] == readings


@pytest.mark.parametrize("may_not", ["iterdir", "readlink"])
def test_sockets_that_may_not_be_read_are_told(kernel: Kernel, monkeypatch: pytest.MonkeyPatch, may_not: str) -> None:
    kernel.listen(8000, 11)
    kernel.process(100, inodes=(11,))

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, may_not, refuse)
    processes = Processes(kernel.root)
    assert named(processes, {"100": 1}) == {"": 1}
    assert processes.hidden


def began(engine: str, epoch: str) -> WorkReading:
    return WorkReading(engine=engine, epoch=epoch)


def test_when_it_began_tells_an_engine_whose_sockets_may_not_be_read(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kernel.root / "stat").write_text("cpu 1 2 3\nbtime 1753795000\n")
    kernel.listen(8000, 11)
    kernel.process(100, inodes=(11,), started=32650)
    kernel.process(101, parent=100, started=40000)
    kernel.process(200, started=32651)

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    processes = Processes(kernel.root)
    assert named(processes, {"101": 1, "200": 2}) == {"": 3}
    # The kernel's own start is told a second later meanwhile, as it is when the clock is corrected.
    processes.named([began("a", "1753795327.5"), began("b", "rubbish")], (A, B))
    processes.hidden = False
    assert named(processes, {"101": 1}) == {"a": 1} and not processes.hidden
    assert named(processes, {"101": 1, "200": 2}) == {"a": 1, "": 2} and processes.hidden


def test_a_moment_at_which_two_engines_began_tells_nothing(kernel: Kernel) -> None:
    (kernel.root / "stat").write_text("btime 1753795000\n")
    kernel.process(100, started=32650)
    processes = Processes(kernel.root)
    processes.named([began("a", "1753795326.5"), began("b", "1753795326.5")], (A, B))
    assert named(processes, {"100": 1}) == {"": 1}
    processes.named([began("b", "1753795400.25")], (A, B))
    assert named(processes, {"100": 1}) == {"a": 1}


def test_this_process_began_when_its_own_page_would_say() -> None:
    processes, page = Processes(), ProcessCollector(registry=CollectorRegistry())
    (at_s,) = (sample.value for one in page.collect() for sample in one.samples if "start_time" in sample.name)
    processes.named([began("a", str(at_s))], (A, B))
    assert named(processes, {str(os.getpid()): 1}) == {"a": 1}


def test_a_real_server_and_its_worker_are_found() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", CHILD], text=True, **pipes) as server:
        assert server.stdout is not None
        port, worker = server.stdout.readline().split()
        engine = Engine(id="real", software="vllm", port=int(port))
        did = {str(server.pid): 1, worker: 2, str(os.getpid()): 4}
        assert named(Processes(), did, engine, B) == {"real": 3, "": 4}
        server.communicate("\n")
