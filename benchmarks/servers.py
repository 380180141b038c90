"""Windows of the server that benchmarks are told in: 8 boards, 2 packages, 2 DRAM, one BMC meter and one engine."""

import random
from collections.abc import Iterator

from joulefleet.delivery import plain
from joulefleet.describe import Engine, Meter, Reservation
from joulefleet.grid import TRACE_STEP_NS
from joulefleet.reading import Counts, WorkKey
from joulefleet.units import NS_PER_S, mw_ns_to_uj, w_to_mw
from joulefleet.window import AgentCost, EngineWindow, MeterWindow, Window, Work, coarse

BOARDS = 8
PATTERNS = 64
"""Different sets of numbers; servers take them in turn."""
MODEL = "meta-llama/Llama-3.1-70B-Instruct"


def meters(server: int) -> tuple[Meter, ...]:
    """What one server declares."""
    boards = [
        Meter(
            id=f"GPU-{server:08x}-5f3a-4c1e-9d27-{board:012x}",
            kind="accelerator",
            grade="counter",
            sensor_class="onboard",
            device=f"GPU-{server:08x}-5f3a-4c1e-9d27-{board:012x}",
            hw_model="NVIDIA H200",
            resolution_uj=1_000,
            refresh_ns=NS_PER_S // 10,
            max_power_mw=w_to_mw(700),
            restarts_at_zero=True,
            driver="570.86.15",
            power_limit_mw=w_to_mw(700),
        )
        for board in range(BOARDS)
    ]
    packages = [_rapl(f"rapl:package-{number}", "cpu_package", 350) for number in range(2)]
    memory = [_rapl(f"rapl:dram-{number}", "dram", 60) for number in range(2)]
    bmc = Meter(
        id="redfish:input",
        kind="server",
        grade="integrated",
        sensor_class="platform",
        contains=("accelerator", "cpu_package", "dram"),
        refresh_ns=NS_PER_S,
        current="ac",
    )
    return (*boards, *packages, *memory, bmc)


def _rapl(name: str, kind: str, most_w: int) -> Meter:
    return Meter(
        id=name,
        kind="dram" if kind == "dram" else "cpu_package",
        grade="counter",
        sensor_class="onboard",
        resolution_uj=61,
        refresh_ns=NS_PER_S // 1_000,
        modulus_uj=262_143_328_850,
        max_power_mw=w_to_mw(most_w),
    )


class Fleet:
    """Servers that send windows of one step, each from the same instant on; the same seed makes the same bytes."""

    def __init__(self, servers: int, step_ns: int, first_ns: int, seed: int = 1) -> None:
        self._step_ns = step_ns
        self._first_ns = first_ns
        self._meters = [meters(server) for server in range(servers)]
        chance = random.Random(seed)
        self._patterns = [_pattern(chance, step_ns) for _ in range(PATTERNS)]

    def window(self, server: int, number: int) -> Window:
        """A server's window, counted from its first."""
        declared = self._meters[server]
        engine = Engine(
            id="vllm@localhost:8000",
            software="vllm",
            version="0.9.1",
            devices=tuple(Reservation(board.id) for board in declared[:BOARDS]),
        )
        told, work, running = self._patterns[(server * 31 + number) % PATTERNS]
        return Window(
            server=f"node-{server:05d}",
            timeline=server + 1,
            start_ns=self._first_ns + number * self._step_ns,
            step_ns=self._step_ns,
            pool="inference",
            site="north",
            labels={"rack": f"r{server // 8:04d}"},
            meters=tuple(_read(meter, *each, self._step_ns) for meter, each in zip(declared, told, strict=True)),
            engines=(
                EngineWindow(
                    engine=engine,
                    covered_ns=self._step_ns,
                    work=(work,),
                    running_start=running,
                    running_end=(running * 7) % 30,
                    running_ns=running * self._step_ns,
                    queued_ns=0,
                ),
            ),
            agent=AgentCost(cpu_ns=6_000_000, rss_bytes=25_000_000, energy_uj=90_000, spool_windows=1),
        )

    def batches(self, server: int, windows: int) -> Iterator[bytes]:
        """One plain batch for each window."""
        for number in range(windows):
            yield plain([self.window(server, number).encode()], batch_id=number)


Told = tuple[int, tuple[int, ...], dict[str, float]]


def _pattern(chance: random.Random, step_ns: int) -> tuple[list[Told], Work, int]:
    boards = [_told(chance, 550, step_ns) for _ in range(BOARDS)]
    rest = [_told(chance, mean_w, step_ns) for mean_w in (180, 180, 25, 25)]
    server = _told(chance, 5_900, step_ns)
    work = Work(
        key=WorkKey(MODEL),
        counts=Counts(
            requests_ok=chance.randrange(20, 60),
            requests_failed=0,
            requests_aborted=chance.randrange(2),
            prompt_tokens=chance.randrange(20_000, 60_000),
            cached_tokens=chance.randrange(5_000),
            output_tokens=chance.randrange(8_000, 20_000),
        ),
        latency={name: {first + k: chance.randrange(1, 40) for k in range(6)} for name, first in _LATENCIES.items()},
    )
    return [*boards, *rest, server], work, chance.randrange(1, 30)


_LATENCIES = {"ttft": 16, "itl": 10, "e2e": 28}


def _told(chance: random.Random, mean_w: int, step_ns: int) -> Told:
    """Energy, trace and gauges of one meter: the mean power give or take a tenth, in mW."""
    means_mw = [w_to_mw(mean_w * chance.uniform(0.95, 1.05)) for _ in range(max(step_ns // TRACE_STEP_NS, 1))]
    energy_uj = mw_ns_to_uj(sum(means_mw) // len(means_mw) * step_ns) + chance.randrange(1_000)
    trace = tuple(int(coarse(mean_mw)) for mean_mw in means_mw)
    gauges = {"utilisation_pct": coarse(chance.uniform(40, 100)), "temperature_c": coarse(chance.uniform(50, 80))}
    return energy_uj, trace, gauges if mean_w == 550 else {}


def _read(
    meter: Meter, energy_uj: int, trace_mw: tuple[int, ...], gauges: dict[str, float], step_ns: int
) -> MeterWindow:
    first_uj = 10**12 + energy_uj
    is_board = meter.kind == "accelerator"
    return MeterWindow(
        meter=meter,
        first_uj=first_uj,
        last_uj=first_uj + energy_uj,
        energy_uj=energy_uj,
        covered_ns=step_ns,
        trace_mw=trace_mw,
        idle_mw=w_to_mw(75) if is_board else None,
        idle_learnt=is_board,
        gauge_uj=energy_uj if is_board else 0,
        gauge_ns=step_ns if is_board else 0,
        gauges=gauges,
    )
