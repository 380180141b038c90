"""The agent's loop in a test's own time, and the whole agent in this process."""

import itertools
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from joulefleet.config import ConfigError
from joulefleet.describe import SOMEWHERE, Engine, Meter, Reservation
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet.source import OpenSource, ProcessMustEnd, Source
from joulefleet.window import Window, decode
from joulefleet_agent.clock import AgentClock, wall_ns
from joulefleet_agent.config import AgentConfig, CollectorConfig
from joulefleet_agent.cutter import Identity
from joulefleet_agent.pipeline import Pipeline
from joulefleet_agent.sampler import Absent, Configured, Gone, MustEnd, Opened, Refused, Said
from joulefleet_agent.service import EXIT_AGAIN, EXIT_OK, Agent, identity_of, only_one, run_agent, take_up_clock
from joulefleet_agent.spool import Spool, SpoolUnavailable

S = 1_000_000_000
J = 1_000_000
WALL = Meter(id="wall", kind="server", grade="counter", sensor_class="platform")
BOARD = Meter(id="gpu0", kind="accelerator", grade="counter", sensor_class="onboard")
WAIT_S = 20


class Here:
    """An agent of which a test plays the sources and the clocks. The counter tells 100 W by the boot clock."""

    def __init__(self, path: Path, fake_time: Any, step_s: int = 60) -> None:
        self.time = fake_time
        self.spool = Spool(path)
        self.pipeline = Pipeline(self.spool, Identity(server="a"), step_s * S)
        clock = take_up_clock(self.pipeline, fake_time.wall, fake_time.boot)
        self.agent = Agent(self.pipeline, clock, step_s * S, fake_time.wall, fake_time.boot)
        self.pipeline.start(["wall", "board"], clock.now_ns())

    def say(self, *readings: Reading, source: str = "wall") -> None:
        self.agent.take(Said(source, self.time.boot_ns, readings))

    def counter(self) -> MeterReading:
        return MeterReading(meter="wall", counter_uj=self.time.boot_ns // S * 100 * J)

    def live(self, seconds: int) -> None:
        for _ in range(seconds):
            self.time.pass_s(1)
            self.say(self.counter())
            self.agent.beat()

    def windows(self) -> list[Window]:
        return [decode(one.body) for one in self.spool.waiting(10**6, 2**62, 10**12)]

    def told_j(self) -> float:
        return sum(one.energy_uj + one.late_uj for window in self.windows() for one in window.meters) / J


@pytest.fixture
def here(tmp_path: Path, fake_time: Any) -> Iterator[Here]:
    made = Here(tmp_path / "spool.db", fake_time)
    made.agent.take(Opened("wall", (WALL,)))
    yield made
    made.spool.__exit__(None, None, None)


def test_what_sources_say_becomes_windows_on_disk(here: Here) -> None:
    here.live(59)
    assert not here.agent.closed.is_set()
    here.live(62)
    assert here.agent.closed.is_set()
    assert [window.meters[0].energy_uj for window in here.windows()][-1] == 6_000 * J


def test_a_reading_has_the_time_at_which_it_was_read_not_taken(here: Here) -> None:
    here.say(here.counter())
    read = Said("wall", here.time.boot_ns + 60 * S, (MeterReading(meter="wall", counter_uj=10**12),))
    here.time.pass_s(75)
    here.agent.take(read)
    assert here.pipeline.last_ns == here.time.wall_ns - 15 * S


def test_a_source_that_is_not_there_is_told_once_with_its_mend_and_missed(
    here: Here, caplog: pytest.LogCaptureFixture
) -> None:
    here.agent.take(Opened("board", (BOARD,)))
    with caplog.at_level(logging.INFO):
        for _ in range(130):
            here.agent.take(Absent("board", "driver", "not loaded", "load it"))
            here.live(1)
    assert caplog.text.count("board: driver: not loaded; load it") == 1
    assert {window.meters[1].gaps_ns.get("driver") for window in here.windows()[1:]} == {60 * S}


def test_a_failure_is_told_when_it_begins_and_when_it_ends(here: Here, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            here.say(Failure(subject="wall", code="timeout", detail="2 s"))
        here.live(2)
        here.say(Failure(subject="", code="timeout", detail="2 s"))
    said = [one.getMessage() for one in caplog.records]
    assert said == ["wall/wall: timeout 2 s", "wall/wall: answers again", "wall/all: timeout 2 s"]


FOUND = Engine(id="vllm@127.0.0.1:8000", software="vllm", port=8000, devices=(Reservation(SOMEWHERE),))


def test_an_engine_is_put_where_its_processes_run_as_soon_as_that_is_told(here: Here) -> None:
    here.agent.take(Opened("found", (FOUND,)))
    here.agent.take(Opened("board", (BOARD,)))
    # It is put on the whole server only once it is clear that no source tells of processes.
    assert here.pipeline.engines[0].devices == ()
    here.say(MeterReading(meter="gpu0", processes={"999999999": ""}), source="board")
    assert here.pipeline.engines == [FOUND], "that may be its own process or another's"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        mine = msgspec.structs.replace(FOUND, port=port)
        here.agent.take(Opened("found", (mine,)))
        here.say(MeterReading(meter="gpu0", processes={str(os.getpid()): ""}), source="board")
    assert here.pipeline.engines[0].devices == (Reservation("gpu0"),)
    here.agent.take(Opened("found", ()))
    assert here.pipeline.placed == {}


def busy_board(here: Here, *engines: Engine) -> dict[str, int] | None:
    """What the last window tells of a board that this very process keeps busy half of the time."""
    here.agent.take(Opened("board", (BOARD,)))
    here.agent.take(Opened("engines", engines))
    for second in range(150):
        here.time.pass_s(1)
        did = {str(os.getpid()): S // 2}
        here.say(MeterReading(meter="gpu0", counter_uj=second * J, activity_ns=did), source="board")
        here.say(here.counter())
        here.agent.beat()
    (board,) = [one for one in here.windows()[-1].meters if one.meter.id == "gpu0"]
    return board.activity_ns


def test_processes_are_told_by_the_engine_whose_port_they_listen_on(here: Here) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        mine = Engine(id="mine", software="vllm", port=server.getsockname()[1])
        assert busy_board(here, mine, Engine(id="other", software="vllm")) == {"mine": 30 * S}


def test_sockets_that_may_not_be_seen_are_told_once_with_the_mend(
    here: Here, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server, caplog.at_level(logging.INFO):
        mine = Engine(id="mine", software="vllm", port=server.getsockname()[1])
        assert busy_board(here, mine, Engine(id="other", software="vllm")) == {"": 30 * S}
    assert caplog.text.count("CAP_SYS_PTRACE") == 1


def test_a_source_that_ended_is_not_missed(here: Here) -> None:
    here.agent.take(Opened("board", (BOARD,)))
    here.live(10)
    here.agent.take(Gone("board"))
    here.live(150)
    assert [one.meter.id for one in here.windows()[-1].meters] == ["wall"]


def test_a_wrong_table_ends_the_agent_with_its_reason(here: Here) -> None:
    wrong = ConfigError("source nvml", "perod_s", "unknown")
    with pytest.raises(ConfigError) as told:
        here.agent.take(Refused("nvml", wrong))
    assert told.value is wrong


def test_only_a_new_process_can_mend_it(here: Here) -> None:
    assert here.agent.exit_code == EXIT_OK
    here.agent.take(MustEnd("nvml", "driver upgraded"))
    assert here.agent.exit_code == EXIT_AGAIN == 75


def test_a_wall_clock_set_back_is_followed_at_the_next_edge(here: Here) -> None:
    here.live(100)
    before = here.spool.timeline()
    first_j = here.told_j() - 100 * (100 - 1)
    here.time.set_wall(-1_000)
    here.live(200)
    assert here.spool.timeline() != before
    here.pipeline.finish(here.time.wall_ns)
    windows = here.windows()
    assert first_j <= 0
    assert here.told_j() == 100 * 299
    assert len({window.key for window in windows}) == len(windows)
    assert {window.timeline for window in windows} == {before, here.spool.timeline()}


def test_a_wall_clock_set_forwards_is_followed_at_the_next_edge(here: Here) -> None:
    here.live(100)
    before = here.spool.timeline()
    here.time.set_wall(10 * 365 * 86_400)
    here.live(200)
    here.pipeline.finish(here.time.wall_ns)
    assert here.spool.timeline() == before
    assert len(here.windows()) < 70
    assert here.told_j() + here.spool.losses().energy_uj / J == 100 * 299


def test_a_machine_that_slept_tells_its_sleep_when_it_wakes(here: Here) -> None:
    here.live(61)
    here.time.pass_s(600)
    here.agent.beat()
    here.live(130)
    windows = here.windows()
    assert here.told_j() == pytest.approx(sum(100 * one.meters[0].covered_ns / S for one in windows))
    assert all(one.meters[0].late_uj == 0 for one in windows)
    assert [one.meters[0].covered_ns for one in windows[1:]] == [60 * S] * (len(windows) - 1)


def test_the_clock_of_a_restart_is_not_before_what_was_closed(tmp_path: Path, fake_time: Any) -> None:
    first = Here(tmp_path / "s.db", fake_time)
    first.agent.take(Opened("wall", (WALL,)))
    first.live(10)
    for _ in range(300):
        fake_time.pass_s(1)
        first.say(Failure(subject="wall", code="timeout"))
        first.agent.beat()
    first.agent.beat()
    reached_ns, read_ns = first.pipeline.reached_ns, first.pipeline.last_ns
    first.spool.__exit__(None, None, None)
    fake_time.set_wall(-100)
    assert read_ns < fake_time.wall_ns < reached_ns
    again = Here(tmp_path / "s.db", fake_time)
    again.agent.take(Opened("wall", (WALL,)))
    again.live(300)
    windows = again.windows()
    assert len({window.timeline for window in windows}) == 2
    assert len({window.key for window in windows}) == len(windows)
    again.pipeline.finish(fake_time.wall_ns)
    assert again.told_j() == 100 * 609
    again.spool.__exit__(None, None, None)


@pytest.mark.parametrize("back_s", [2, 100, 10_000])
def test_a_restart_after_the_wall_clock_was_set_back_loses_nothing(tmp_path: Path, fake_time: Any, back_s: int) -> None:
    first = Here(tmp_path / "s.db", fake_time)
    first.agent.take(Opened("wall", (WALL,)))
    first.live(200)
    first.pipeline.suspend(fake_time.wall_ns)
    first.spool.__exit__(None, None, None)
    fake_time.set_wall(-back_s)
    again = Here(tmp_path / "s.db", fake_time)
    again.agent.take(Opened("wall", (WALL,)))
    again.live(300)
    again.pipeline.finish(fake_time.wall_ns)
    windows = again.windows()
    assert len({window.timeline for window in windows}) == (1 if back_s == 2 else 2)
    assert len({window.key for window in windows}) == len(windows)
    assert again.told_j() == 100 * 499
    again.spool.__exit__(None, None, None)


# Real threads


class Made:
    """A source whose reads are what a test says."""

    declares: tuple[Meter | Engine, ...] = (WALL,)
    period_ns = S // 20
    deadline_ns = 10 * S

    def __init__(self, read: Callable[[], Sequence[Reading]]) -> None:
        self.read = read


def opened(source: Source) -> OpenSource:
    def opener(table: dict[str, Any]) -> Source:
        return source

    return opener


def test_a_source_that_needs_a_new_process_ends_the_agent(tmp_path: Path) -> None:
    def read() -> Sequence[Reading]:
        raise ProcessMustEnd("driver upgraded")

    with Spool(tmp_path / "s.db") as spool:
        agent = Agent(Pipeline(spool, Identity(server="a"), 60 * S), AgentClock(), 60 * S)
        stop = threading.Event()
        assert agent.run([Configured("nvml", opened(Made(read)), {})], stop) == EXIT_AGAIN
        assert stop.is_set()
        assert spool.state()


def test_while_one_source_hangs_windows_go_on_and_say_so(tmp_path: Path) -> None:
    """The one reads a FIFO that nobody writes."""
    fifo, numbers = tmp_path / "fifo", iter(range(10**6))
    os.mkfifo(fifo)

    def hang() -> Sequence[Reading]:
        fifo.read_text()
        return []

    hanging = Made(hang)
    hanging.declares, hanging.deadline_ns = (BOARD,), S // 10
    well = Made(lambda: [MeterReading(meter="wall", counter_uj=next(numbers) * J)])
    stop, path, ready = threading.Event(), tmp_path / "s.db", threading.Event()
    agents: list[Agent] = []

    def run() -> None:
        with Spool(path) as own:
            agents.append(Agent(Pipeline(own, Identity(server="a"), S), AgentClock(), S))
            ready.set()
            sources = [Configured("well", opened(well), {}), Configured("hanging", opened(hanging), {})]
            agents[0].run(sources, stop)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(WAIT_S)
    windows: list[Window] = []
    with Spool(path) as spool:
        while len(windows) < 3:
            assert agents[0].closed.wait(WAIT_S)
            agents[0].closed.clear()
            windows = [decode(one.body) for one in spool.waiting(100, 2**62, 10**9)]
    stop.set()
    thread.join(WAIT_S)
    assert not thread.is_alive()
    last = {one.meter.id: one for one in windows[-1].meters}
    assert last["wall"].covered_ns == S
    assert last["gpu0"].gaps_ns == {"hung": S}
    descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    os.close(descriptor)


# The whole agent


def simulated(tmp_path: Path, url: str, **changes: Any) -> AgentConfig:
    sources = [{"use": "simulated", "boards": 2, "start_s": 0, "period_s": 0.1}]
    fields = {"server": "gpu-17", "step_s": 1.0, "spool": str(tmp_path / "spool.db"), "sources": sources, **changes}
    return AgentConfig(collector=CollectorConfig(url=url, **fields.pop("collector", {})), **fields)


def run_until(config: AgentConfig, collector: Any, windows: int) -> int:
    """Run the agent until the collector has so many windows; its exit code."""
    stop, codes = threading.Event(), []
    thread = threading.Thread(target=lambda: codes.append(run_agent(config, "agent.toml", stop)), daemon=True)
    thread.start()
    assert collector.wait_for(windows, WAIT_S)
    stop.set()
    thread.join(WAIT_S)
    return int(codes[0])


def test_an_agent_delivers_and_goes_on_after_a_restart(tmp_path: Path, collector: Any) -> None:
    token = tmp_path / "token"
    token.write_text("jf1.k1.3.1800000000.c2VjcmV0\n")
    config = simulated(tmp_path, collector.url, collector={"token_file": str(token)})
    assert run_until(config, collector, 2) == EXIT_OK
    assert run_until(config, collector, 4) == EXIT_OK
    windows = sorted(collector.taken, key=lambda one: one.start_ns)
    assert {one.server for one in windows} == {"gpu-17"}
    assert len({one.key for one in windows}) == len(windows)
    assert len({one.timeline for one in windows}) == 1
    assert all(b.start_ns == a.end_ns for a, b in itertools.pairwise(windows))
    for one, following in itertools.pairwise(windows):
        assert [meter.last_uj for meter in one.meters] == [meter.first_uj for meter in following.meters]
    assert windows[-1].simulated
    assert windows[0].agent.cpu_ns > 0
    assert {one["Authorization"] for one in collector.asked} == {"Bearer jf1.k1.3.1800000000.c2VjcmV0"}


def test_an_agent_tells_in_its_windows_how_its_clock_stands(tmp_path: Path, collector: Any) -> None:
    config = simulated(tmp_path, collector.url)
    collector.now_ns = wall_ns() - 3_600 * S

    def clocks() -> list[int]:
        return [found for one in collector.taken if (found := one.agent.clock_ahead_ns) is not None]

    stop = threading.Event()
    thread = threading.Thread(target=run_agent, args=(config, "agent.toml", stop), daemon=True)
    thread.start()
    with collector.arrived:
        assert collector.arrived.wait_for(clocks, WAIT_S)
    stop.set()
    thread.join(WAIT_S)
    assert all(0 <= found - 3_600 * S <= 2 * WAIT_S * S for found in clocks())


def test_a_typo_in_a_sources_table_is_refused_with_the_file(tmp_path: Path) -> None:
    config = simulated(tmp_path, "http://127.0.0.1:9", sources=[{"use": "simulated", "bords": 2}])
    with pytest.raises(ConfigError, match=r"agent\.toml: source simulated: bords: .*unknown") as told:
        run_agent(config, "agent.toml", threading.Event())
    assert told.value.key == "bords"


def test_a_missing_token_is_refused_at_the_start(tmp_path: Path) -> None:
    config = simulated(tmp_path, "http://127.0.0.1:9", collector={"token_file": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="secret cannot be read"):
        run_agent(config, "agent.toml", threading.Event())
    assert not (tmp_path / "spool.db").exists()


def test_a_second_agent_on_one_spool_is_refused(tmp_path: Path) -> None:
    spool = tmp_path / "spool.db"
    (tmp_path / "alias.db").symlink_to(spool)
    with only_one(spool):
        for path in (spool, tmp_path / "alias.db"):
            with pytest.raises(SpoolUnavailable, match="another agent is running on it"), only_one(path):
                raise AssertionError("two agents")
    with only_one(spool):
        pass


def test_what_every_window_bears() -> None:
    config = AgentConfig(server="gpu-17", pool="prod", site="fra", labels={"rack": "r7"}, hardware="H100 x8")
    identity = identity_of(config)
    assert (identity.server, identity.pool, identity.site) == ("gpu-17", "prod", "fra")
    assert (identity.labels, identity.hardware) == ({"rack": "r7"}, "H100 x8")
    assert set(identity.facts) == {"agent", "schema", "config", "kernel"}
    other = identity_of(AgentConfig(server="gpu-17", step_s=10.0))
    assert other.facts["config"] != identity.facts["config"]
    assert identity_of(config) == identity
