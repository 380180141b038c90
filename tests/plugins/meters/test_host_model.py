"""The host model: watts from utilisation, by published coefficients."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet.source import SourceUnavailable
from joulefleet_plugins.meters.host_model import DEFAULT, Host, HostModel, cpu_name, family_of, open

HOST = Host(name="AMD EPYC 7763 64-Core Processor", vcpus=10, memory_gb=100)


def read_one(model: HostModel) -> Reading:
    (reading,) = model.read()
    return reading


def told(*times: tuple[float, float]) -> HostModel:
    return HostModel(HOST, iter(times).__next__)


@pytest.mark.parametrize(
    ("name", "watts"),
    [
        ("Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz", (0.64, 3.97)),
        ("Intel Xeon Processor (Cascadelake)", (0.64, 3.97)),
        ("Intel(R) Xeon(R) Gold 6240R CPU @ 2.40GHz", (0.64, 3.97)),
        ("Intel(R) Xeon(R) Platinum 8175M CPU @ 2.50GHz", (0.65, 4.26)),
        ("Intel Xeon Processor (Skylake, IBRS)", (0.65, 4.26)),
        ("Intel(R) Xeon(R) Silver 4114 CPU @ 2.20GHz", (0.65, 4.26)),
        ("Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz", (0.71, 3.69)),
        ("Intel(R) Xeon(R) CPU E7-8880 v3 @ 2.30GHz", (1.00, 4.74)),
        ("AMD EPYC 7551 32-Core Processor", (0.82, 2.55)),
        ("AMD EPYC 7R32", (0.47, 1.69)),
        ("AMD EPYC 7763 64-Core Processor", (0.45, 2.02)),
        ("AMD EPYC-Milan Processor", (0.45, 2.02)),
        ("AMD EPYC 9654 96-Core Processor", (0.74, 3.50)),
        ("Intel(R) Xeon(R) Platinum 8358 CPU @ 2.60GHz", (0.74, 3.50)),
        ("AMD EPYC", (0.74, 3.50)),
        ("", (0.74, 3.50)),
    ],
)
def test_the_family_is_known_by_the_model_name(name: str, watts: tuple[float, float]) -> None:
    family = family_of(name)
    assert (family.idle_w, family.full_w) == watts


def test_the_first_read_says_that_there_is_no_interval_yet() -> None:
    first = read_one(told((5.0, 100.0)))
    assert isinstance(first, Failure)
    assert (first.subject, first.code) == ("host", "first_read")


def test_power_follows_the_busy_part_of_the_time_between_two_reads() -> None:
    model = told((5.0, 100.0), (10.0, 120.0), (30.0, 140.0))
    model.read()
    quarter, full = read_one(model), read_one(model)
    # 10 vCPUs at 0.45 + u * 1.57 W, and 100 GB at 0.392 W.
    assert quarter == MeterReading(meter="host", power_mw=47_625, gauges={"utilisation_pct": 25.0})
    assert full == MeterReading(meter="host", power_mw=59_400, gauges={"utilisation_pct": 100.0})


def test_no_time_between_two_reads_gives_no_power() -> None:
    model = told((5.0, 100.0), (5.0, 100.0), (6.0, 110.0))
    model.read()
    second, third = read_one(model), read_one(model)
    assert isinstance(second, Failure)
    assert second.code == "no_interval"
    assert isinstance(third, MeterReading)


def test_the_declaration_bounds_the_power() -> None:
    (meter,) = told().declares
    assert isinstance(meter, Meter)
    assert (meter.kind, meter.grade, meter.sensor_class, meter.current) == ("host", "modelled", "modelled", "ac")
    assert meter.contains == ("cpu_package", "cpu_core", "dram", "psys")
    assert (meter.idle_mw, meter.max_power_mw) == (43_700, 59_400)
    assert meter.hw_model == HOST.name


@given(st.lists(st.tuples(st.floats(-1, 1e6), st.floats(0, 1e6)), min_size=2, max_size=20))
def test_power_never_leaves_the_bounds_of_the_model(steps: list[tuple[float, float]]) -> None:
    model = told(*steps)
    for _ in steps:
        reading = read_one(model)
        if isinstance(reading, MeterReading):
            assert HOST.power_mw(0.0) <= (reading.power_mw or 0) <= HOST.power_mw(1.0)


def test_the_cpu_name_is_the_first_of_its_kind() -> None:
    assert cpu_name("processor\t: 0\nmodel name\t: AMD EPYC 7R32\n\nmodel name\t: other\n") == "AMD EPYC 7R32"


def test_a_cpu_without_name_takes_the_default() -> None:
    assert cpu_name("processor\t: 0\nCPU part\t: 0xd0c\n") == ""
    assert family_of(cpu_name("")) == DEFAULT


def test_this_host_can_be_opened(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: AMD EPYC 7R32\n")
    source = open({"cpuinfo": str(cpuinfo)})
    (meter,) = source.declares
    assert isinstance(meter, Meter)
    assert meter.hw_model == "AMD EPYC 7R32"
    assert 0 < meter.idle_mw < meter.max_power_mw
    (first,) = source.read()
    assert isinstance(first, Failure)


def test_a_host_without_cpuinfo_is_no_error_but_named(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="nowhere"):
        open({"cpuinfo": str(tmp_path / "nowhere")})


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="watts"):
        open({"watts": 5})
