"""Processors and memory from the kernel's counters to the ledger: nothing twice, and a wrap exact to the microjoule."""

import random
from pathlib import Path

import pytest

from fixtures.collectors import Collector
from fixtures.powercap import INTEL_DRAM_UJ, INTEL_UJ, Tree
from fixtures.virtual_agent import AgentOf, Clock, SteadyEngine, each_s
from joulefleet.units import j_to_uj, uj_to_j
from joulefleet.window import Window

SECONDS, STEP_S = 300, 60
TOKENS_PER_S = 100
COUNTED = {"package-0", "package-0/dram", "package-1", "package-1/dram"}


class Zone:
    """One counter of the tree, its energy from second to second, and where it begins."""

    def __init__(self, folder: str, watts: float, wraps_after_j: float = 0, range_uj: int = INTEL_UJ) -> None:
        self.folder = folder
        self.range_uj = range_uj
        chance = random.Random(folder)
        each_uj = [round(j_to_uj(watts) * chance.uniform(0.8, 1.2)) for _ in range(SECONDS)]
        self.used_uj = [sum(each_uj[:second]) for second in range(SECONDS + 1)]
        self._first_uj = range_uj - j_to_uj(wraps_after_j) if wraps_after_j else j_to_uj(1_000)

    def write(self, tree: Tree, second: int) -> None:
        """Let the counter stand where it stands at this second."""
        value_uj = (self._first_uj + self.used_uj[second]) % self.range_uj
        (tree.root / self.folder / "energy_uj").write_text(f"{value_uj}\n")

    def wraps_at(self) -> int:
        """The second at which the counter is first read lower than before."""
        return next(second for second, uj in enumerate(self.used_uj) if self._first_uj + uj >= self.range_uj)


def zones() -> dict[str, Zone]:
    """The server of two sockets: package 0 wraps in the second minute, the memory of package 1 in the fourth."""
    return {
        "package-0": Zone("intel-rapl:0", 185, wraps_after_j=185 * 90.4),
        "package-0/dram": Zone("intel-rapl:0:0", 21, range_uj=INTEL_DRAM_UJ),
        "package-0/core": Zone("intel-rapl:0:1", 140),
        "package-1": Zone("intel-rapl:1", 205),
        "package-1/dram": Zone("intel-rapl:1:0", 23, wraps_after_j=23 * 200.7, range_uj=INTEL_DRAM_UJ),
        "package-1/core": Zone("intel-rapl:1:1", 150),
        "psys": Zone("intel-rapl:2", 600),
    }


@pytest.fixture
def told(tmp_path: Path, agent_of: AgentOf, hosted: Collector, clock: Clock) -> dict[str, Zone]:
    """Five minutes of the server, read each second and delivered; what its zones used."""
    tree, truth = Tree(tmp_path), zones()
    tree.add_two_sockets()
    shown = [*truth.values(), Zone("intel-rapl-mmio:0", 185), Zone("intel-rapl-mmio:0:0", 21)]
    for zone in shown:
        zone.write(tree, 0)
    agent = agent_of("cpu-1", STEP_S)
    agent.open(rapl=tree.open(), engine=SteadyEngine("m", TOKENS_PER_S, clock))
    for second in each_s(clock, SECONDS):
        for zone in shown:
            zone.write(tree, second)
        agent.read("rapl")
        agent.read("engine")
        agent.tick()
    agent.finish()
    return truth


def energy_uj(window: Window) -> dict[str, int]:
    return {meter.meter.id: meter.energy_uj for meter in window.meters}


def test_every_window_of_every_zone_is_exact_to_the_microjoule(told: dict[str, Zone], hosted: Collector) -> None:
    wraps_s = (told["package-0"].wraps_at(), told["package-1/dram"].wraps_at())
    assert [second // STEP_S for second in wraps_s] == [1, 3]
    assert all(second % STEP_S > 5 for second in wraps_s)
    stored = hosted.windows()
    assert len(stored) == SECONDS // STEP_S
    for place, window in enumerate(stored):
        from_s, to_s = place * STEP_S, (place + 1) * STEP_S
        assert energy_uj(window) == {name: zone.used_uj[to_s] - zone.used_uj[from_s] for name, zone in told.items()}
        assert all(meter.covered_ns == window.step_ns and not meter.gaps_ns for meter in window.meters)


def test_compute_is_packages_and_memory_and_nothing_twice(told: dict[str, Zone], hosted: Collector) -> None:
    answer = hosted.report("--by", "server,model")
    (ledger,) = answer["ledger"]
    expected_uj = sum(zone.used_uj[-1] for name, zone in told.items() if name in COUNTED)
    assert ledger["boundary"] == "compute"
    assert j_to_uj(ledger["metered_j"]) == expected_uj
    assert ledger["residual_uj"] == 0
    assert ledger["coverage"] == 1.0
    (row,) = answer["rows"]
    assert row["output_tokens"] == SECONDS * TOKENS_PER_S
    assert row["joules_per_output_token"] == pytest.approx(uj_to_j(expected_uj) / row["output_tokens"], rel=1e-9)
    assert [one["code"] for one in answer["warnings"]] == ["not_the_whole_server"]
