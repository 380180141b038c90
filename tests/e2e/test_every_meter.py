"""What holds for every meter: absent hardware is silent, nothing broken becomes a joule, nothing leaks.

Each source has a rig (`rigs.rig`): its interface, faked or built of real files, that draws power, breaks and is mended.
Readings go through the agent's own cutter, in a time that the test sets.
"""

import contextlib
import gc
import importlib
import math
import os
import pkgutil
import re
import threading
import tracemalloc
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

import rigs
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet.source import ProcessMustEnd, Source, SourceUnavailable
from joulefleet.units import NS_PER_S, ns_to_s, uj_to_j
from joulefleet.window import MeterWindow
from joulefleet_agent.cutter import Cutter, CutterState, Identity
from joulefleet_agent.sampler import stamped
from rigs.rig import FAULTS, Rig

NAMES = sorted(module.name for module in pkgutil.iter_modules(rigs.__path__) if module.name != "rig")
POWER_W = 40.0
"""Drawn by every device of a rig; less than any of them is rated."""
BEGAN_NS = 1_790_000_040 * NS_PER_S
"""The start of a minute."""
GAIN = 1.02
"""What edges, refreshes and a curve may add to a meter's energy at a steady power."""
FOR_THE_CUTTER = ("stuck", "huge", "negative")
"""Faults that a source may leave to the cutter, which judges each reading by the meter's declaration."""
WARM_READS, READS = 20, 120
LEAKED_BYTES = 60_000


class Metered:
    """The way from a source's reads to its windows' energy."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.now_ns = BEGAN_NS
        self.readings: list[Reading] = []
        self._cutter = Cutter(CutterState(timeline=1, step_ns=60 * NS_PER_S), Identity(server="s"))
        self._cutter.declare(source.declares, self.now_ns)
        self._energy_uj: dict[str, int] = {}

    @property
    def meters(self) -> dict[str, Meter]:
        """What it declares, by id."""
        return {one.id: one for one in self.source.declares if isinstance(one, Meter)}

    def read(self) -> tuple[Reading, ...]:
        """Read once, as the sampler takes it, and cut what was read."""
        told = stamped(read_of(self.source), self.now_ns, self.source.declares)
        self._cutter.feed(told, self.now_ns)
        self.readings += told
        for window in self._cutter.close(self.now_ns):
            self._add(window.meters)
        return told

    def energy_j(self) -> dict[str, float]:
        """Joules of each meter in all windows, late ones included; ends the cutting."""
        for window in self._cutter.finish():
            self._add(window.meters)
        return {name: uj_to_j(uj) for name, uj in self._energy_uj.items()}

    def _add(self, meters: Iterable[MeterWindow]) -> None:
        for one in meters:
            told_uj = self._energy_uj.get(one.meter.id, 0)
            self._energy_uj[one.meter.id] = told_uj + one.energy_uj + one.late_uj


def read_of(source: Source) -> list[Reading]:
    """One read as the sampler takes it: what is raised is a failure of everything that is declared."""
    try:
        return list(source.read())
    except SourceUnavailable as error:
        return [Failure(subject="", code=error.code, detail=error.detail)]
    except ProcessMustEnd as error:
        return [Failure(subject="", code="restart", detail=str(error))]
    except Exception as error:  # the sampler calls it the source's fault, and the others go on
        return [Failure(subject="", code="fault", detail=f"{type(error).__name__}: {error}")]


def drive(rig: Rig, metered: Metered, seconds: float) -> None:
    """Draw power for so long and read once a period."""
    for _ in range(max(round(seconds * NS_PER_S / metered.source.period_ns), 3)):
        rig.run(ns_to_s(metered.source.period_ns), POWER_W)
        metered.now_ns += metered.source.period_ns
        metered.read()


def settled_s(source: Source) -> float:
    """Long enough that the slowest meter of the source has made several values."""
    slowest_ns = max(max(one.refresh_ns, one.period_ns) for one in source.declares if isinstance(one, Meter))
    return max(30.0, 6 * ns_to_s(slowest_ns))


def module_of(name: str) -> ModuleType:
    return importlib.import_module(f"rigs.{name}")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rig(name: str, tmp_path: Path) -> Iterator[Rig]:
    with module_of(name).rig(tmp_path) as made:
        yield made


def test_every_meter_has_a_rig() -> None:
    recordings = {"mlperf", "nvidia_smi", "simulated"}
    points = [one for one in entry_points(group="joulefleet.sources") if ".meters." in one.value]
    assert {one.name for one in points} - recordings == set(NAMES)


def test_absent_hardware_is_silent(name: str, tmp_path: Path) -> None:
    (point,) = entry_points(group="joulefleet.sources", name=name)
    with pytest.raises(SourceUnavailable) as told:
        point.load()(module_of(name).absent(tmp_path))
    assert re.fullmatch("[a-z][a-z0-9_]*", told.value.code) and told.value.detail


def test_a_steady_power_is_metered(rig: Rig) -> None:
    metered = Metered(rig.open())
    drive(rig, metered, 2 * settled_s(metered.source))
    true_j = POWER_W * ns_to_s(metered.now_ns - BEGAN_NS)
    for name, energy_j in metered.energy_j().items():
        meter = metered.meters[name]
        step_j = uj_to_j(meter.resolution_uj)
        # What the first period and the last refresh hold is not known, or not yet.
        edges_j = POWER_W * (3 * ns_to_s(max(meter.refresh_ns, metered.source.period_ns))) + step_j
        assert true_j / GAIN - edges_j <= energy_j <= true_j * GAIN + step_j, name


def test_nothing_broken_becomes_a_joule(name: str, tmp_path: Path) -> None:
    with module_of(name).rig(tmp_path) as first:
        faults = list(first.faults)
    assert faults and set(faults) <= set(FAULTS)
    for fault in faults:
        folder = tmp_path / fault
        folder.mkdir()
        with module_of(name).rig(folder) as rig:
            break_and_mend(rig, fault)


def break_and_mend(rig: Rig, fault: str) -> None:
    """Drive it well, broken and well again; no joule is told that was not drawn."""
    metered = Metered(rig.open())
    span_s = settled_s(metered.source)
    drive(rig, metered, span_s)
    before = len(metered.readings)
    rig.faults[fault]()
    drive_broken(rig, metered, span_s, fault)
    during = metered.readings[before:]
    rig.mend()
    drive(rig, metered, span_s)
    assert_well_formed(metered)
    if fault not in FOR_THE_CUTTER:
        assert any(isinstance(one, Failure) for one in during), f"{fault}: a broken read has to say so"
    if fault == "zero":
        assert not [one for one in during if isinstance(one, MeterReading) and one.power_mw == 0], (
            "0 that means unknown"
        )
    true_j = POWER_W * ns_to_s(metered.now_ns - BEGAN_NS)
    for name, energy_j in metered.energy_j().items():
        assert 0 <= energy_j <= true_j * GAIN + uj_to_j(metered.meters[name].resolution_uj), (fault, name)


def drive_broken(rig: Rig, metered: Metered, seconds: float, fault: str) -> None:
    """As `drive`; a read that hangs is tried once, in a thread, and has to come back by itself."""
    if fault != "hangs":
        return drive(rig, metered, seconds)
    rig.run(ns_to_s(metered.source.period_ns), POWER_W)
    metered.now_ns += metered.source.period_ns
    reading = threading.Thread(target=metered.read, daemon=True)
    reading.start()
    reading.join(2 * ns_to_s(metered.source.deadline_ns) + 5)
    assert not reading.is_alive(), "a read that gets no answer has to end"
    return None


def assert_well_formed(metered: Metered) -> None:
    """Readings are numbers of what is declared, failures have stable codes, and no secret of Python's shows."""
    for one in metered.readings:
        if isinstance(one, Failure):
            assert one.subject in metered.meters and re.fullmatch("[a-z][a-z0-9_]*", one.code), one
        elif isinstance(one, MeterReading):
            assert one.meter in metered.meters and (one.counter_uj is not None or one.power_mw is not None), one
            assert all(isinstance(each, int) for each in (one.counter_uj or 0, one.power_mw or 0)), one
            assert all(math.isfinite(each) for each in one.gauges.values()), one


def test_two_minutes_of_reading_leak_nothing(rig: Rig) -> None:
    source = rig.open()

    def reads(number: int) -> None:
        for _ in range(number):
            rig.run(ns_to_s(source.period_ns), POWER_W)
            read_of(source)
        gc.collect()

    reads(WARM_READS)
    files, threads = open_files(), threading.active_count()
    tracemalloc.start()
    try:
        reads(WARM_READS)
        first, _ = tracemalloc.get_traced_memory()
        reads(READS)
        last, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert open_files() <= files and threading.active_count() <= threads
    assert last - first < LEAKED_BYTES


def open_files() -> int:
    """Files that this process has open, the one for looking aside."""
    with contextlib.suppress(FileNotFoundError):
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not walked
    return 0
