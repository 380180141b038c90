"""An engine that nobody configured, and that moves to another port and other boards: nothing lost, nothing double."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from fixtures.collectors import Collector
from fixtures.nvml.fake_nvml import FakeNvml, build, compiler, uuid
from fixtures.nvml.nvml_process import NvmlReader
from fixtures.processes import free_port
from fixtures.virtual_agent import AgentOf, Clock, VirtualAgent, each_s
from fixtures.vllm_process import VllmProcess
from joulefleet.describe import SOMEWHERE, WHOLE
from joulefleet.units import NS_PER_S, mw_to_w, ns_to_s
from joulefleet.window import Window
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_plugins.work.found import PERIOD_S, Config, FoundSource

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler to build the fake NVML library with")

BOARDS, STEP_S, SECONDS = 4, 60, 900
BEGINS_S, MOVES_S, RETURNS_S = 75, 400, 413
"""When the engine comes, when it ends there, and when it is at the other port: none of them at an edge or at a look."""
FOREVER_MS = 10**12
OUTPUT, PROMPT = 25, 100
"""Tokens of a request; one is served each second."""


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[tuple[FakeNvml, NvmlReader]]:
    fake = FakeNvml(library=build(tmp_path / "library"), control=tmp_path / "control", boards=BOARDS)
    fake.power_mw = {board: 100_000 * (board + 1) for board in range(BOARDS)}
    fake.write()
    reader = NvmlReader(fake.environment())
    reader.open()
    yield fake, reader
    reader.close()


class Moving:
    """The engine's two lives, as processes of their own, and how many requests they have counted."""

    def __init__(self, nvml: FakeNvml) -> None:
        with closing(socket.create_server(("127.0.0.1", free_port()))) as held:
            self.ports: tuple[int, ...] = (held.getsockname()[1], free_port())
        self.served = 0
        self._nvml = nvml
        self._life = ExitStack()
        self._server: VllmProcess | None = None

    def at(self, second: int) -> None:
        """What happens in this second."""
        if second in (BEGINS_S, RETURNS_S):
            port, its = (self.ports[0], (0, 1)) if second == BEGINS_S else (self.ports[1], (2, 3))
            self._server = self._life.enter_context(VllmProcess(port, "M"))
            self._nvml.processes = [(board, self._server.worker, 70, 0, FOREVER_MS) for board in its]
        if second == MOVES_S:
            self.close()
        self.serve()

    def serve(self) -> None:
        """One request, if it runs."""
        if self._server is not None:
            self._server.serve(prompt=PROMPT, output=OUTPUT)
            self.served += 1

    def close(self) -> None:
        self._server = None
        self._nvml.processes = []
        self._life.close()


@pytest.fixture
def moving(boards: tuple[FakeNvml, NvmlReader]) -> Iterator[Moving]:
    engine = Moving(boards[0])
    yield engine
    engine.close()


@pytest.fixture
def stored(
    moving: Moving, boards: tuple[FakeNvml, NvmlReader], agent_of: AgentOf, hosted: Collector, clock: Clock
) -> list[Window]:
    (fake, nvml), agent = boards, agent_of("gpu-1", STEP_S)
    agent.see(Path("/proc"))
    # Named, so that nothing else that listens on the machine of the test is asked.
    found = FoundSource(Config(ports=moving.ports), now_s=lambda: ns_to_s(clock()))
    agent.open(nvml=nvml, found=found)
    for second in each_s(clock, SECONDS):
        # The last thing that the engine counts is on its last page.
        if second % PERIOD_S == 0:
            agent.read("found")
        if second < SECONDS:
            moving.at(second)
        fake.at(second * 1_000)
        agent.read("nvml")
        agent.tick()
    agent.finish()
    return hosted.windows()


def held(window: Window) -> dict[str, tuple[str, ...]]:
    """The boards of each engine."""
    return {one.engine.id: tuple(part.meter for part in one.engine.devices) for one in window.engines}


def charged_j(window: Window) -> float:
    """What the model has at the boundary of its boards."""
    rows = [row for row in account(window, Policy()) if row.kind == "usage" and row.tags["model"] == "M"]
    return sum(row.fields["active_j"] + row.fields["idle_j"] for row in rows)


def test_nothing_is_lost_and_nothing_double(stored: list[Window], moving: Moving, hosted: Collector) -> None:
    works = [work for window in stored for one in window.engines for work in one.work]
    for field, each in (("requests_ok", 1), ("prompt_tokens", PROMPT), ("output_tokens", OUTPUT)):
        told = [getattr(part, field) or 0 for work in works for part in (work.counts, work.late)]
        assert sum(told) == moving.served * each, field
    (row,) = hosted.report("--by", "model")["rows"]
    kinds = ("", "unmetered_", "late_")
    assert sum(row[f"{kind}output_tokens"] or 0 for kind in kinds) == moving.served * OUTPUT
    (ledger,) = hosted.ask()["ledger"]
    assert ledger["residual_uj"] == 0
    assert ledger["metered_j"] == pytest.approx(sum(range(1, BOARDS + 1)) * 100 * SECONDS, rel=1e-3)


def test_its_joules_are_those_of_the_boards_on_which_it_ran(stored: list[Window], moving: Moving) -> None:
    first, second = (f"vllm@127.0.0.1:{port}" for port in moving.ports)
    before, after = (uuid(0), uuid(1)), (uuid(2), uuid(3))
    places = [held(window) for window in stored]
    print(places)
    assert {boards for one in places if (boards := one.get(first))} <= {before, (SOMEWHERE,)}
    assert {boards for one in places if (boards := one.get(second))} <= {after, (SOMEWHERE,)}
    for window, its in zip(stored, places, strict=True):
        of_boards_j = {before: 300 * STEP_S, after: 700 * STEP_S, (SOMEWHERE,): 0}
        most_j = sum(of_boards_j[boards] for boards in its.values())
        assert charged_j(window) <= most_j * 1.001
    steady = [number for number, its in enumerate(places) if its in ({first: before}, {second: after})]
    whole = [number for number in steady if all(one.covered_ns == STEP_S * NS_PER_S for one in stored[number].engines)]
    assert len(whole) >= 8
    for number in whole:
        right_j = 300 * STEP_S if first in places[number] else 700 * STEP_S
        assert charged_j(stored[number]) == pytest.approx(right_j, rel=1e-3)
    assert places[0] == {} and list(places[-1]) == [second], "it was not there, and is not kept for ever"


def test_what_a_stranger_did_on_its_board_is_not_its_own(
    moving: Moving, boards: tuple[FakeNvml, NvmlReader], agent_of: AgentOf, hosted: Collector, clock: Clock
) -> None:
    (fake, nvml), agent = boards, agent_of("gpu-1", STEP_S)
    agent.see(Path("/proc"))
    fake.power_mw = dict.fromkeys(range(BOARDS), 400_000)
    moving.at(BEGINS_S)
    worker, stranger = fake.processes[0][1], os.getpid()
    fake.processes = [(0, worker, 20, 0, FOREVER_MS), (0, stranger, 60, 0, FOREVER_MS)]
    fake.at(0)
    agent.open(nvml=nvml, found=FoundSource(Config(ports=moving.ports), now_s=lambda: ns_to_s(clock())))
    for second in each_s(clock, 240):
        fake.at(second * 1_000)
        agent.read("nvml")
        if second % PERIOD_S == 0:
            agent.read("found")
        agent.tick()
        moving.serve()
    agent.finish()
    for window in hosted.windows()[1:-1]:
        assert [part.share_ppm for part in window.engines[0].engine.devices] == [WHOLE // 2]
        rows = account(window, Policy())
        (usage,) = (row.fields for row in rows if row.kind == "usage")
        (board,) = (one for one in window.meters if one.meter.id == uuid(0))
        idle_j = mw_to_w(board.idle_mw or 0) * STEP_S
        # A quarter of what was done there, and half of what the board draws anyway.
        assert usage["active_j"] == pytest.approx((400 * STEP_S - idle_j) / 4, rel=0.02)
        assert usage["idle_j"] == pytest.approx(idle_j / 2, rel=1e-3)
        assert usage["by_activity_j"] == usage["active_j"]


def test_an_agent_that_starts_anew_goes_on_with_what_it_had_found(
    moving: Moving, boards: tuple[FakeNvml, NvmlReader], agent_of: AgentOf, hosted: Collector, clock: Clock
) -> None:
    fake, nvml = boards
    moving.at(BEGINS_S)
    moving.served = 0
    agents: list[VirtualAgent] = []
    for second in each_s(clock, 400):
        if second in (0, 190):
            agents.append(agent_of("gpu-1", STEP_S))
            agents[-1].see(Path("/proc"))
            found = FoundSource(Config(ports=moving.ports), now_s=lambda: ns_to_s(clock()))
            agents[-1].open(nvml=nvml, found=found)
        fake.at(second * 1_000)
        if not 130 <= second < 190:
            agents[-1].read("nvml")
            if second % PERIOD_S == 0:
                agents[-1].read("found")
            agents[-1].tick()
        if second == 130:
            agents[-1].pipeline.suspend(clock())
            agents[-1].close()
        if second < 400:
            moving.serve()
    agents[-1].finish()
    works = [work for window in hosted.windows() for one in window.engines for work in one.work]
    told = sum(part.requests_ok or 0 for work in works for part in (work.counts, work.late))
    assert told == moving.served
    assert {held(window)[f"vllm@127.0.0.1:{moving.ports[0]}"] for window in hosted.windows()[1:]} == {
        (uuid(0), uuid(1))
    }
