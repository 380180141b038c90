"""The TPU source against a real gRPC server on loopback that stands in for the TPU runtime."""

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.tpu import fake_tpu_runtime as fakes
from fixtures.tpu.fake_tpu_runtime import FakeTpuRuntime, double, message, metric, number, response, serving
from joulefleet.config import ConfigError, typed
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import Source, SourceUnavailable
from joulefleet_plugins.meters import tpu

NOW_S = 1_700_000_000
NS_PER_S = 1_000_000_000


@pytest.fixture
def runtime() -> Iterator[tuple[FakeTpuRuntime, str]]:
    pytest.importorskip("grpc")
    fake = FakeTpuRuntime()
    with serving(fake) as port:
        yield fake, f"127.0.0.1:{port}"


def bus(folder: Path, *devices: tuple[str, str]) -> Path:
    """A PCI bus with these vendors and devices."""
    for at, (vendor, device) in enumerate(devices):
        place = folder / f"pci/0000:00:{at:02x}.0"
        place.mkdir(parents=True)
        (place / "vendor").write_text(f"{vendor}\n")
        (place / "device").write_text(f"{device}\n")
    return folder / "pci"


def opened(address: str, **table: Any) -> Source:
    chips = {"chips": 2, "idle_w": 90, "peak_w": 190, "pci": "/nothing"}
    config = typed({"addresses": [address], **chips, **table}, tpu.TpuConfig, "tpu")
    return tpu.opened(config, lambda: NOW_S * NS_PER_S)


def told(source: Source) -> list[int | str | None]:
    """Milliwatts of each chip, or the code of its failure."""
    return [one.power_mw if isinstance(one, MeterReading) else code_of(one) for one in source.read()]


def code_of(reading: object) -> str:
    assert isinstance(reading, Failure), reading
    return reading.code


def test_power_lies_on_the_line_between_idle_and_peak(runtime: tuple[FakeTpuRuntime, str]) -> None:
    fake, address = runtime
    fake.answer = lambda: response([metric(1, double(1, 100.0), NOW_S - 3), metric(0, double(1, 25.0), NOW_S - 2)])
    first, second = opened(address).read()
    assert first == MeterReading(meter="tpu0", power_mw=115_000, age_ns=2 * NS_PER_S, gauges={"utilisation_pct": 25.0})
    assert second == MeterReading(
        meter="tpu1", power_mw=190_000, age_ns=3 * NS_PER_S, gauges={"utilisation_pct": 100.0}
    )
    assert fake.asked == [message(1, b"tpu.runtime.tensorcore.dutycycle.percent")]


def test_chips_on_the_bus_are_declared_with_google_s_curve_where_there_is_one(tmp_path: Path) -> None:
    pytest.importorskip("grpc")
    pci = bus(tmp_path, ("0x1ae0", "0x005e"), ("0x1ae0", "0x0042"), ("0x8086", "0x005e"), ("0x1ae0", "0x005e"))
    source = tpu.open({"pci": str(pci)})
    assert [one.id for one in source.declares] == ["tpu0", "tpu1"]
    assert source.declares[0] == Meter(
        id="tpu0",
        kind="accelerator",
        grade="modelled",
        sensor_class="modelled",
        hw_model="Google TPU v4",
        refresh_ns=5 * NS_PER_S,
        period_ns=5 * NS_PER_S,
        max_power_mw=192_000,
        basis="duty cycle between 90 W and 192 W (Google's measured minimum and maximum,"
        " cloud.google.com/tpu/docs/v4; its mean is 170 W)",
        idle_mw=90_000,
    )


def test_a_generation_without_a_published_power_needs_a_curve(tmp_path: Path) -> None:
    pci = bus(tmp_path, ("0x1ae0", "0x006f"))
    with pytest.raises(SourceUnavailable) as raised:
        tpu.meters(typed({"pci": str(pci)}, tpu.TpuConfig, "tpu"))
    assert (raised.value.code, "idle_w" in raised.value.mend) == ("no_curve", True)
    table = {"pci": str(pci), "idle_w": 60, "peak_w": 260, "basis": "a profile with rail power"}
    (meter,) = tpu.meters(typed(table, tpu.TpuConfig, "tpu"))
    assert meter.basis == "duty cycle between 60 W and 260 W (a profile with rail power)"


def test_a_host_without_tpu_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable) as raised:
        tpu.open({"pci": str(tmp_path)})
    assert raised.value.code == "absent"


def test_a_missing_package_is_told_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(SourceUnavailable) as raised:
        tpu.open({"chips": 1, "idle_w": 1, "peak_w": 2})
    assert (raised.value.code, raised.value.mend) == ("package_missing", "pip install 'joulefleet[tpu]'")


@pytest.mark.parametrize(
    "table", [{"chip": 1}, {"chips": -1}, {"chips": 1, "idle_w": 90}, {"chips": 1, "idle_w": 90, "peak_w": 80}]
)
def test_a_config_that_cannot_be_used_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="tpu"):
        tpu.open(table)


@pytest.mark.parametrize(
    ("status", "code"),
    [("UNAVAILABLE", "no_runtime"), ("NOT_FOUND", "no_metric"), ("INTERNAL", "rpc_failed")],
)
def test_a_refused_call_is_a_failure_of_every_chip(runtime: tuple[FakeTpuRuntime, str], status: str, code: str) -> None:
    fake, address = runtime

    def refused() -> bytes:
        raise fakes.Refused(status)

    fake.answer = refused
    assert told(opened(address)) == [code, code]


def test_a_runtime_that_does_not_answer_is_given_up(runtime: tuple[FakeTpuRuntime, str]) -> None:
    fake, address = runtime
    fake.open.clear()
    source = opened(address)
    assert told(source) == ["timeout", "timeout"]
    assert source.deadline_ns > tpu.TIMEOUT_S * NS_PER_S


def test_a_runtime_that_comes_with_its_workload_is_found(runtime: tuple[FakeTpuRuntime, str]) -> None:
    fake = FakeTpuRuntime()
    fake.answer = lambda: response([metric(chip, double(1, 50.0)) for chip in (0, 1)])
    with serving(FakeTpuRuntime()) as port:
        pass
    source = opened(f"127.0.0.1:{port}")
    assert told(source) == ["no_runtime", "no_runtime"]
    with serving(fake, port):
        until_s = time.monotonic() + 30
        while told(source) != [140_000, 140_000]:
            assert time.monotonic() < until_s, told(source)


def test_several_processes_share_the_chips(runtime: tuple[FakeTpuRuntime, str]) -> None:
    fake, address = runtime
    fake.answer = lambda: response([metric(0, double(1, 0.0))])
    other = FakeTpuRuntime()
    other.answer = lambda: response([metric(1, double(1, 100.0))])
    with serving(other) as port:
        assert told(opened(address, addresses=[address, f"127.0.0.1:{port}"])) == [90_000, 190_000]
    assert told(opened(address)) == [90_000, "no_value"]


@pytest.mark.parametrize(
    ("answer", "codes"),
    [
        (response([]), ["no_value", "no_value"]),
        (b"", ["no_value", "no_value"]),
        (response([metric(0, b""), metric(1, message(3, b"12 %"))]), ["no_value", "no_value"]),
        (response([metric(0, double(1, math.nan)), metric(1, double(1, 50.0))]), ["no_value", 140_000]),
        (response([metric(0, double(1, 101.0)), metric(1, number(2, 50))]), ["implausible", 140_000]),
        (response([metric(0, double(1, -1.0)), metric(1, double(1, math.inf))]), ["implausible", "implausible"]),
        (response([metric(at, double(1, 1.0), NOW_S - 61) for at in (0, 1)]), ["stale", "stale"]),
        (response([metric(at, double(1, 1.0), NOW_S + 61) for at in (0, 1)]), ["stale", "stale"]),
        (b"\xff\xff", ["rubbish", "rubbish"]),
        (response([metric(0, double(1, 50.0))])[:-4], ["rubbish", "rubbish"]),
    ],
)
def test_what_is_no_duty_cycle_is_a_failure_and_never_idle(
    runtime: tuple[FakeTpuRuntime, str], answer: bytes, codes: list[int | str]
) -> None:
    fake, address = runtime
    fake.answer = lambda: answer
    assert told(opened(address)) == codes


def duty(percent: float) -> tpu.Duty:
    return tpu.Duty(percent, 0)


@pytest.mark.parametrize(
    ("devices", "chips", "percents"),
    [
        ({0: 10, 1: 20}, 2, [[10], [20]]),
        ({0: 10, 1: 20, 2: 30, 3: 40}, 2, [[10, 20], [30, 40]]),
        ({4: 10, 5: 20}, 2, [[10], [20]]),
        ({0: 10}, 2, [[10], []]),
        ({1: 10}, 2, [[], [10]]),
        ({0: 10, 1: 20, 3: 40}, 2, [[10, 20], []]),
        ({}, 2, [[], []]),
    ],
)
def test_devices_are_put_to_their_chips(devices: dict[int, float], chips: int, percents: list[list[float]]) -> None:
    found = tpu.by_chip({number: duty(percent) for number, percent in devices.items()}, chips)
    assert [[one.percent for one in own] for own in found] == percents


@given(st.dictionaries(st.integers(0, 2**62), st.floats(0, 100), max_size=8))
def test_what_is_written_is_read(percents: dict[int, float]) -> None:
    answer = response([metric(device, double(1, percent), NOW_S) for device, percent in percents.items()])
    assert {device: one.percent for device, one in tpu.duties(answer).items()} == percents
    assert {one.at_ns for one in tpu.duties(answer).values()} <= {NOW_S * NS_PER_S}


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_fail(answer: bytes) -> None:
    for whole in (answer, message(1, message(3, answer))):
        try:
            tpu.duties(whole)
        except tpu.Fault as fault:
            assert fault.code == "rubbish"
