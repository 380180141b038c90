"""GPUs and CPUs in one module: no joule of a CPU is counted beside the module that holds it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fixtures.collectors import Collector
from fixtures.nvml.fake_nvml import FakeNvml, build, compiler, uuid
from fixtures.nvml.nvml_process import NvmlReader
from fixtures.virtual_agent import AgentOf, Clock, SteadyEngine, each_s
from joulefleet.describe import Engine, Meter, Reservation
from joulefleet.reading import MeterReading, Reading
from joulefleet.units import NS_PER_S, w_to_mw

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler to build the fake NVML library with")

SECONDS, STEP_S = 300, 60
GPU, MODULE = 0, 1
CPU_W = 150


class GraceCpus:
    """The CPUs' own meters, as another interface of the server tells them: both lie inside a module."""

    period_ns = NS_PER_S
    deadline_ns = NS_PER_S

    def __init__(self, number: int) -> None:
        self.declares: tuple[Meter | Engine, ...] = tuple(
            Meter(id=f"grace-{k}", kind="cpu_package", grade="integrated", sensor_class="onboard")
            for k in range(number)
        )

    def read(self) -> Sequence[Reading]:
        return [MeterReading(meter=one.id, power_mw=w_to_mw(CPU_W)) for one in self.declares]


@pytest.fixture
def fake(tmp_path: Path) -> FakeNvml:
    return FakeNvml(library=build(tmp_path / "library"), control=tmp_path / "control", c2c=1)


@pytest.fixture
def live(fake: FakeNvml, agent_of: AgentOf, clock: Clock) -> Iterator[Callable[[int, Engine], None]]:
    """Runs a server with so many Grace CPUs and this engine for five minutes."""
    with contextlib.ExitStack() as ends:

        def run(cpus: int, engine: Engine) -> None:
            fake.at(1_000)
            boards = NvmlReader(fake.environment())
            ends.callback(boards.close)
            boards.open()
            agent = agent_of("grace-1", STEP_S)
            agent.open(nvml=boards, cpus=GraceCpus(cpus), engine=SteadyEngine("m", 1_000, clock, engine))
            for second in each_s(clock, SECONDS):
                fake.at((second + 1) * 1_000)
                for source in ("nvml", "cpus", "engine"):
                    agent.read(source)
                agent.tick()
            agent.finish()

        yield run


def mean_w(hosted: Collector) -> dict[str, float]:
    """Mean power of each boundary."""
    return {row["boundary"]: row["metered_j"] / SECONDS for row in hosted.ask()["ledger"]}


def test_grace_blackwell_has_its_gpus_at_one_boundary_and_its_modules_at_the_next(
    fake: FakeNvml, live: Callable[[int, Engine], None], hosted: Collector
) -> None:
    fake.name, fake.boards, fake.limit_mw = "NVIDIA GB300", 4, 1_400_000
    fake.power_mw = {board: 900_000 + 10_000 * board for board in range(4)}
    fake.cpus = {0: 0x0F, 1: 0x0F, 2: 0xF0, 3: 0xF0}
    fake.scope_mw = {(MODULE, board): 2_200_000 if board < 2 else 2_300_000 for board in range(4)}
    fake.scope_counts, fake.scope_limit_mw = {MODULE: 1}, {MODULE: 2_900_000}
    # On three of four GPUs: at the modules it holds all of one and half of the other.
    engine = Engine(id="e", software="steady", devices=tuple(Reservation(uuid(board)) for board in range(3)))
    live(2, engine)
    assert mean_w(hosted) == {"accelerator": pytest.approx(3_660, rel=1e-3), "compute": pytest.approx(4_500, rel=1e-3)}
    rows = {row["boundary"]: row for row in hosted.report("--by", "hardware")["rows"]}
    assert {row["hardware"] for row in rows.values()} == {"NVIDIA GB300"}
    assert rows["accelerator"]["joules_per_output_token"] == pytest.approx((900 + 910 + 920) / 1_000, rel=1e-2)


def test_grace_hopper_has_its_gpu_at_one_boundary_and_its_module_at_the_next(
    fake: FakeNvml, live: Callable[[int, Engine], None], hosted: Collector
) -> None:
    fake.name, fake.cpus, fake.power_mw = "NVIDIA GH200 480GB", {0: 1}, {0: 600_000}
    fake.scope_mw = {(GPU, 0): 420_000, (MODULE, 0): 600_000}
    live(1, Engine(id="e", software="steady", devices=(Reservation(uuid(0)),)))
    assert mean_w(hosted) == {"accelerator": pytest.approx(420, rel=1e-2), "compute": pytest.approx(600, rel=1e-3)}
    rows = {row["boundary"]: row for row in hosted.report("--by", "hardware")["rows"]}
    assert rows["compute"]["joules_per_output_token"] == pytest.approx(0.6, rel=1e-2)
    assert rows["accelerator"]["joules_per_output_token"] == pytest.approx(0.42, rel=1e-2)
