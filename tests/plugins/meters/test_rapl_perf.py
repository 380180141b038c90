"""RAPL as events of perf: on a faked PMU, through a faked C library, and on an event that every kernel has."""

import ctypes
import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fixtures.nvml.fake_nvml import compiler
from fixtures.perf_pmu import GONE, REFUSED, STEPS_PER_J, TYPE, Pmu
from fixtures.powercap import Tree
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import Source, SourceUnavailable
from joulefleet.units import s_to_ns
from joulefleet.window import MeterWindow
from joulefleet_collector.account.cover import covers
from joulefleet_plugins.meters import rapl_perf
from joulefleet_plugins.meters.rapl_perf import PerfEvent, cpus_in, event_config

FAKE_LIBC = """
#include <errno.h>
#include <fcntl.h>
#include <string.h>
long fake_arguments[5];
unsigned char fake_attributes[64];
const char *fake_path;
int fake_error;
long syscall(long number, const void *attr, long pid, long cpu, long group, unsigned long flags) {
    long seen[] = {number, pid, cpu, group, (long)flags};
    memcpy(fake_arguments, seen, sizeof seen);
    memcpy(fake_attributes, attr, sizeof fake_attributes);
    if (fake_error) { errno = fake_error; return -1; }
    return open(fake_path, O_RDONLY);
}
"""
SOFTWARE, CPU_CLOCK = 1, 0


@pytest.fixture
def pmu(tmp_path: Path) -> Pmu:
    return Pmu(tmp_path)


def meters(source: Source) -> dict[str, Meter]:
    return {one.id: one for one in source.declares if isinstance(one, Meter)}


def counters(source: Source) -> dict[str, int | None]:
    readings = source.read()
    assert all(isinstance(one, MeterReading) for one in readings), readings
    return {one.meter: one.counter_uj for one in readings if isinstance(one, MeterReading)}


def epochs(source: Source) -> set[str]:
    return {one.epoch for one in source.read() if isinstance(one, MeterReading)}


def failures(source: Source) -> dict[str, str]:
    return {one.subject: one.code for one in source.read() if isinstance(one, Failure)}


def test_every_event_is_read_once_a_package(pmu: Pmu) -> None:
    source = pmu.open()
    assert set(pmu.opened) == {(TYPE, config, cpu) for config in (1, 2, 3) for cpu in (0, 2)}
    for (config, cpu), _ in list(pmu.steps.items()):
        pmu.steps[config, cpu] += round((config + cpu / 8) * STEPS_PER_J)
    assert counters(source) == {
        "energy-pkg-0": 2_000_000,
        "energy-pkg-1": 2_250_000,
        "energy-ram-0": 3_000_000,
        "energy-ram-1": 3_250_000,
        "energy-cores-0": 1_000_000,
        "energy-cores-1": 1_250_000,
    }
    assert list(meters(source)) == list(counters(source))


def test_a_package_is_declared_with_all_that_accounting_needs(pmu: Pmu) -> None:
    assert meters(pmu.open())["energy-pkg-1"] == Meter(
        id="energy-pkg-1",
        kind="cpu_package",
        grade="counter",
        sensor_class="onboard",
        device="package-1",
        resolution_uj=62,
        refresh_ns=1_000_000,
        period_ns=1_000_000_000,
        max_power_mw=800_000,
        restarts_at_zero=True,
    )


def test_each_zone_has_the_identity_that_powercap_gives_it(tmp_path: Path) -> None:
    events = "energy-pkg energy-ram energy-cores energy-gpu energy-psys"
    found = meters(Pmu(tmp_path, mask="0", events=events).open())
    assert {one.id: (one.kind, one.device, one.inside) for one in found.values()} == {
        "energy-pkg-0": ("cpu_package", "package-0", ""),
        "energy-ram-0": ("dram", "package-0/dram", ""),
        "energy-cores-0": ("cpu_core", "package-0/core", "energy-pkg-0"),
        "energy-gpu-0": ("cpu_core", "package-0/uncore", "energy-pkg-0"),
        "energy-psys": ("psys", "psys", ""),
    }
    assert found["energy-psys"].contains == ("cpu_package", "dram", "cpu_core")


def test_dies_of_a_package_are_named_as_powercap_names_them(pmu: Pmu) -> None:
    pmu.write("cpumask", "0-2")
    pmu.place(1, 0, die=1)
    assert [one.device for one in meters(pmu.open()).values() if one.kind == "cpu_package"] == [
        "package-0-die-0",
        "package-0-die-1",
        "package-1",
    ]


def test_dies_that_show_one_register_are_one_meter(pmu: Pmu) -> None:
    pmu.write("cpumask", "0-3")
    for cpu in range(4):
        pmu.place(cpu, cpu // 2, die=cpu)
    pmu.made_by("AuthenticAMD")
    found = {one.id: one.device for one in meters(pmu.open()).values() if one.kind == "cpu_package"}
    assert found == {"energy-pkg-0": "package-0", "energy-pkg-1": "package-1"}
    assert {cpu for _, _, cpu in pmu.opened} == {0, 2}


def test_the_platform_is_read_once(tmp_path: Path) -> None:
    pmu = Pmu(tmp_path, events="energy-psys")
    assert list(meters(pmu.open())) == ["energy-psys"]
    assert pmu.opened == [(TYPE, 5, 0)]


def test_beside_powercap_perf_is_taken_and_nothing_twice(pmu: Pmu, tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.add_two_sockets()
    both = [*meters(tree.open()).values(), *meters(pmu.open()).values()]
    for order in (both, both[::-1]):
        (compute,) = covers([MeterWindow(meter=one, first_uj=0, last_uj=0) for one in order], s_to_ns(60))
        assert [one.meter.id for one in compute.meters] == [
            "energy-pkg-0",
            "energy-pkg-1",
            "energy-ram-0",
            "energy-ram-1",
        ]


def test_an_event_that_ended_is_opened_again_in_another_epoch(pmu: Pmu) -> None:
    source = pmu.open()
    pmu.use(5)
    before = epochs(source)
    pmu.break_with(GONE)
    assert set(failures(source).values()) == {"read_failed"}
    pmu.mend()
    pmu.use(2)
    assert set(counters(source).values()) == {0}
    assert len(before) == 1
    assert not epochs(source) & before
    assert sum(not event.is_closed for event in pmu.events) == len(meters(source))


def test_one_read_that_fails_costs_an_epoch_and_no_reading(pmu: Pmu) -> None:
    source = pmu.open()
    pmu.events[0].steps = lambda: (_ for _ in ()).throw(OSError(errno.EIO, "once"))  # type: ignore[method-assign]  # a fault of this one
    pmu.use(3)
    assert set(counters(source)) == set(meters(source))


@pytest.mark.parametrize(("error", "code"), [(REFUSED, "read_failed"), (errno.EACCES, "permission")])
def test_a_read_that_fails_is_no_zero(pmu: Pmu, error: int, code: str) -> None:
    source = pmu.open()
    pmu.break_with(error)
    assert failures(source) == dict.fromkeys(meters(source), code)


def test_a_missing_right_is_told_with_the_way_to_grant_it(pmu: Pmu) -> None:
    pmu.break_with(errno.EACCES)
    with pytest.raises(SourceUnavailable) as raised:
        pmu.open()
    assert raised.value.code == "permission"
    assert "CAP_PERFMON" in raised.value.mend
    assert "kernel.perf_event_paranoid=0" in raised.value.mend


@pytest.mark.parametrize(
    ("file", "text", "code"),
    [
        ("events/energy-pkg.unit", "Watts", "unit"),
        ("events/energy-pkg.scale", "much", "unit"),
        ("events/energy-pkg.scale", "-1", "unit"),
        ("cpumask", "all", "read_failed"),
        ("cpumask", "", "absent"),
        ("type", "?", "absent"),
    ],
)
def test_a_pmu_that_cannot_be_understood_is_unavailable(pmu: Pmu, file: str, text: str, code: str) -> None:
    pmu.write(file, text)
    with pytest.raises(SourceUnavailable) as raised:
        pmu.open()
    assert raised.value.code == code


def test_a_host_without_the_pmu_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable) as raised:
        rapl_perf.open({"pmu": str(tmp_path)})
    assert raised.value.code == "absent"
    assert "modprobe rapl" in raised.value.mend


def test_a_pmu_without_energy_events_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="no energy event"):
        Pmu(tmp_path, events="").open()


@pytest.mark.parametrize("table", [{"root": "/sys"}, {"period_s": 0}])
def test_a_config_that_cannot_be_used_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="rapl_perf"):
        rapl_perf.open(table)


def test_lists_of_cpus_and_numbers_of_events() -> None:
    assert cpus_in("0,24-26,7") == [0, 24, 25, 26, 7]
    assert [event_config(text) for text in ("event=0x02", "event=3", "config=0x02", "")] == [2, 3, None, None]


@pytest.fixture
def libc(tmp_path: Path) -> Any:
    """A library whose `syscall` opens a file, and remembers what it was asked."""
    cc = compiler()
    if cc is None:
        pytest.skip("no C compiler to build the fake C library with")
    source, built = tmp_path / "libc.c", tmp_path / "libfake.so"
    source.write_text(FAKE_LIBC)
    subprocess.run([cc, "-shared", "-fPIC", "-o", built, source], check=True)
    return ctypes.CDLL(str(built), use_errno=True)


def test_the_kernel_is_asked_for_a_counter_of_one_cpu(libc: Any, tmp_path: Path) -> None:
    value = tmp_path / "value"
    value.write_bytes((7 * STEPS_PER_J).to_bytes(8, "little"))
    path = bytes(value)
    ctypes.c_char_p.in_dll(libc, "fake_path").value = path
    event = PerfEvent(libc, type_=9, config=2, cpu=24)
    number, pid, cpu, group, flags = (ctypes.c_long * 5).in_dll(libc, "fake_arguments")
    assert (number, pid, cpu, group, flags) == (298, -1, 24, -1, 8)
    attributes = bytes((ctypes.c_ubyte * 64).in_dll(libc, "fake_attributes"))
    words = [int.from_bytes(attributes[at : at + size], "little") for at, size in ((0, 4), (4, 4), (8, 8))]
    assert words == [9, 64, 2]
    assert not any(attributes[16:])
    assert event.steps() == 7 * STEPS_PER_J
    with pytest.raises(FileNotFoundError):
        event.steps()


def test_an_event_that_the_kernel_refuses_tells_its_error(libc: Any) -> None:
    ctypes.c_int.in_dll(libc, "fake_error").value = errno.EACCES
    with pytest.raises(PermissionError):
        PerfEvent(libc, 9, 2, 0)


def test_a_real_event_of_this_kernel_counts_and_is_closed() -> None:
    try:
        event = PerfEvent(ctypes.CDLL(None, use_errno=True), SOFTWARE, CPU_CLOCK, min(os.sched_getaffinity(0)))
    except OSError as error:
        pytest.skip(f"perf events may not be opened here: {error}")
    first = event.steps()
    assert event.steps() > first
    event.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        event.steps()
