"""Two engines on one GPU share its joules by what their processes did, from the driver to the report."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.collectors import Collector
from fixtures.nvml.fake_nvml import FakeNvml, build, compiler, uuid
from fixtures.nvml.nvml_process import NvmlReader
from fixtures.virtual_agent import AgentOf, Clock, SteadyEngine, each_s
from joulefleet.describe import Engine, Reservation
from joulefleet.units import s_to_ns
from joulefleet.window import Window

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler to build the fake NVML library with")

SECONDS, STEP_S = 300, 60
POWER_W = 400
FOREVER_MS = 10**12
BUSY_PCT = {"large": 60, "small": 20, "": 10}
"""Of a process of each engine, and of a process of none."""
PIDS = {"large": 101, "small": 102, "": 103}


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[NvmlReader]:
    fake = FakeNvml(library=build(tmp_path / "library"), control=tmp_path / "control", power_mw={0: POWER_W * 1_000})
    fake.processes = [(0, PIDS[name], use, 0, FOREVER_MS) for name, use in BUSY_PCT.items()]
    fake.write()
    reader = NvmlReader(fake.environment())
    reader.fake = fake
    reader.open()
    yield reader
    reader.close()


def engine(name: str, clock: Clock) -> SteadyEngine:
    """Both make as many tokens: by them they would share in equal parts."""
    declared = Engine(id=name, software="steady", devices=(Reservation(uuid(0), 500_000),), unit=f"{name}.service")
    return SteadyEngine(name, 1_000, clock, declared)


@pytest.fixture
def stored(boards: NvmlReader, agent_of: AgentOf, hosted: Collector, clock: Clock) -> list[Window]:
    agent = agent_of("gpu-1", STEP_S)
    for name, pid in PIDS.items():
        own = agent.kernel / str(pid)
        own.mkdir(parents=True)
        (own / "cgroup").write_text(f"0::/system.slice/{name or 'other'}.service\n")
        (own / "stat").write_text(f"{pid} (python) S 1 {'0 ' * 17} 7\n")
    agent.open(nvml=boards, large=engine("large", clock), small=engine("small", clock))
    for second in each_s(clock, SECONDS):
        boards.fake.at(second * 1_000)
        for source in ("nvml", "large", "small"):
            agent.read(source)
        agent.tick()
    agent.finish()
    return hosted.windows()


def test_joules_follow_the_processes(stored: list[Window], hosted: Collector) -> None:
    for window in stored[1:-1]:
        told = window.meters[0].activity_ns
        assert told == {name: pytest.approx(s_to_ns(STEP_S) * use / 100, rel=0.01) for name, use in BUSY_PCT.items()}
    answer = hosted.report("--by", "model")
    joules = {row["model"]: row["joules_per_output_token"] * row["output_tokens"] for row in answer["rows"]}
    whole_j, parts = POWER_W * SECONDS, sum(BUSY_PCT.values())
    assert joules == {name: pytest.approx(whole_j * BUSY_PCT[name] / parts, rel=0.01) for name in ("large", "small")}
    assert all(set(row["joules_by_method"]) == {"activity"} for row in answer["rows"])
    (ledger,) = hosted.ask()["ledger"]
    assert ledger["unattributed_j"] == pytest.approx(whole_j * BUSY_PCT[""] / parts, rel=0.01)
    assert ledger["residual_uj"] == 0
