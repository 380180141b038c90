"""The nvidia-smi replay: columns by name, several boards, and cells that hold no value."""

import os
from datetime import datetime
from pathlib import Path

import pytest

from joulefleet.config import ConfigError
from joulefleet.describe import Engine, Meter
from joulefleet.reading import Counts, Failure, MeterReading, Reading, WorkKey, WorkReading
from joulefleet.source import Source, SourceGone, SourceUnavailable
from joulefleet.units import NS_PER_S
from joulefleet_plugins.meters.nvidia_smi import open

DATA = Path(os.environ.get("JOULEFLEET_DATA", Path(__file__).parents[3] / "../shared/data")) / "nvidia-smi"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the nvidia-smi recordings are not at {DATA}")

NOON_NS = 1_704_110_400 * NS_PER_S
"""2024-01-01T12:00:00Z."""
HEADER = "timestamp, power.draw [W]"


def opened(folder: Path, *lines: str, end: str = "\n", **more: object) -> Source:
    recording = folder / "gpu.csv"
    recording.write_text("\n".join(lines) + end)
    return open({"path": str(recording), **more})


def read_all(source: Source) -> list[Reading]:
    readings: list[Reading] = []
    while True:
        try:
            readings += source.read()
        except SourceGone:
            return readings


def meters(source: Source) -> list[Meter]:
    return [one for one in source.declares if isinstance(one, Meter)]


@needs_data
@pytest.mark.parametrize("name", ["A100_gpudata.csv", "A100_5050_gpudata.csv"])
@pytest.mark.parametrize(("column", "place"), [("power.draw", 5), ("power.draw.instant", 6)])
def test_every_value_of_a_real_recording_is_told(name: str, column: str, place: int) -> None:
    lines = (DATA / name).read_text().splitlines()[1:]
    expected = []
    for line in lines:
        cells = line.split(", ")
        at = datetime.strptime(cells[0] + "+0000", "%Y/%m/%d %H:%M:%S.%f%z")
        try:
            expected.append((round(at.timestamp() * 1000), round(float(cells[place]) * 1000)))
        except ValueError:
            continue
    readings = read_all(open({"path": str(DATA / name), "column": column, "hardware": "A100"}))
    told = [one for one in readings if isinstance(one, MeterReading)]
    assert [(one.at_ns // 1_000_000, one.power_mw) for one in told] == expected
    assert len(readings) == len(lines)


def test_powers_are_in_milliwatts_at_their_own_time(tmp_path: Path) -> None:
    source = opened(tmp_path, HEADER, "2024/01/01 12:00:00.015, 78.66", "2024/01/01 12:00:01.000, 412.34 W")
    assert [(one.at_ns, one.power_mw) for one in read_all(source) if isinstance(one, MeterReading)] == [
        (NOON_NS + 15_000_000, 78_660),
        (NOON_NS + NS_PER_S, 412_340),
    ]


@pytest.mark.parametrize(
    ("cell", "code"),
    [
        ("[Unknown Error]", "unknown_error"),
        ("[N/A]", "not_supported"),
        ("N/A", "not_supported"),
        ("[Not Supported]", "not_supported"),
        ("[GPU is lost]", "gpu_lost"),
        ("[Something new]", "malformed"),
        ("", "malformed"),
        ("nan", "malformed"),
        ("-3.00", "malformed"),
        ("12.5 furlongs", "malformed"),
    ],
)
def test_a_cell_without_value_is_a_failure_and_never_zero(tmp_path: Path, cell: str, code: str) -> None:
    source = opened(tmp_path, HEADER, "2024/01/01 12:00:00.000, 80.00", f"2024/01/01 12:00:01.000, {cell}")
    good, failed = read_all(source)
    assert isinstance(good, MeterReading)
    assert isinstance(failed, Failure)
    assert (failed.subject, failed.code) == (meters(source)[0].id, code)
    assert "line 3" in failed.detail


def test_boards_are_told_apart_by_index_and_named_by_uuid(tmp_path: Path) -> None:
    source = opened(
        tmp_path,
        "index, name, uuid, driver_version, timestamp, power.draw [W], utilization.gpu [%], temperature.gpu",
        "0, NVIDIA H100, GPU-a, 550.1, 2024/01/01 12:00:00.000, 100.00 W, 5 %, 40",
        "1, NVIDIA H100, GPU-b, 550.1, 2024/01/01 12:00:00.000, 200.00 W, 95 %, [N/A]",
        "0, NVIDIA H100, [Unknown Error], 550.1, 2024/01/01 12:00:01.000, [Unknown Error], 5 %, 40",
        "1, NVIDIA H100, GPU-b, 550.1, 2024/01/01 12:00:01.000, 201.00 W, 96 %, 60",
    )
    assert [(one.id, one.device, one.hw_model, one.driver) for one in meters(source)] == [
        ("GPU-a", "GPU-a", "NVIDIA H100", "550.1"),
        ("GPU-b", "GPU-b", "NVIDIA H100", "550.1"),
    ]
    readings = read_all(source)
    assert [one.meter if isinstance(one, MeterReading) else one.subject for one in readings] == [
        "GPU-a",
        "GPU-b",
        "GPU-a",
        "GPU-b",
    ]
    assert isinstance(readings[2], Failure)
    assert [one.gauges for one in readings if isinstance(one, MeterReading)] == [
        {"utilisation_pct": 5.0, "temperature_c": 40.0},
        {"utilisation_pct": 95.0},
        {"utilisation_pct": 96.0, "temperature_c": 60.0},
    ]


def test_without_uuid_a_board_has_the_name_of_its_index(tmp_path: Path) -> None:
    source = opened(tmp_path, f"index, {HEADER}", "3, 2024/01/01 12:00:00.000, 100.00")
    assert [(one.id, one.device) for one in meters(source)] == [("gpu3", "")]


def test_a_line_whose_board_is_unknown_is_nobodys_power(tmp_path: Path) -> None:
    lines = ["GPU-a, 2024/01/01 12:00:00.000, 100.00", "[Unknown Error], 2024/01/01 12:00:01.000, 100.00"]
    source = opened(tmp_path, f"uuid, {HEADER}", *lines)
    readings = read_all(source)
    assert [type(one) for one in readings] == [MeterReading, Failure]
    assert [one.id for one in meters(source)] == ["GPU-a"]


def test_declares_boards_and_no_engine(tmp_path: Path) -> None:
    source = opened(tmp_path, HEADER, "2024/01/01 12:00:00.000, 80.00", hardware="A100")
    (meter,) = meters(source)
    assert (meter.kind, meter.grade, meter.sensor_class, meter.current, meter.hw_model) == (
        "accelerator",
        "integrated",
        "onboard",
        "dc",
        "A100",
    )
    assert not [one for one in source.declares if isinstance(one, Engine)]


@pytest.mark.parametrize(("step_s", "period_s"), [(0, 1), (30, 30)])
def test_the_period_is_that_of_the_recording_but_a_second_at_least(tmp_path: Path, step_s: int, period_s: int) -> None:
    lines = [f"2024/01/01 12:{n * step_s // 60:02}:{n * step_s % 60:02}.{n:03}, 80.00" for n in range(5)]
    source = opened(tmp_path, HEADER, *lines)
    assert meters(source)[0].period_ns == source.period_ns
    assert source.period_ns == pytest.approx(period_s * NS_PER_S, rel=0.001)


def test_equal_times_are_told_as_they_are(tmp_path: Path) -> None:
    source = opened(tmp_path, HEADER, *["2024/01/01 12:00:00.000, 80.00"] * 3)
    assert len(read_all(source)) == 3


def test_what_is_not_a_whole_line_is_a_failure(tmp_path: Path) -> None:
    lines = ["2024/01/01 12:00:00.000, 80.00", "GPU 0 was lost, sorry, bye", "yesterday, 80.00", HEADER, ""]
    source = opened(tmp_path, HEADER, *lines, "2024/01/01 12:00:01.000, 8", end="")
    readings = read_all(source)
    assert [type(one) for one in readings] == [MeterReading, Failure, Failure, Failure]
    assert {one.code for one in readings if isinstance(one, Failure)} == {"malformed"}


def test_reading_again_gives_the_same(tmp_path: Path) -> None:
    lines = [f"2024/01/01 12:{n // 60:02}:{n % 60:02}.000, {n}.00" for n in range(3000)]
    first, second = (read_all(opened(tmp_path, HEADER, *lines)) for _ in range(2))
    assert first == second
    assert [one.power_mw for one in first if isinstance(one, MeterReading)] == [n * 1000 for n in range(3000)]


def test_a_unit_that_the_header_names_counts(tmp_path: Path) -> None:
    source = opened(tmp_path, "timestamp, power.draw [mW]", "2024/01/01 12:00:00.000, 80000")
    assert [one.power_mw for one in read_all(source) if isinstance(one, MeterReading)] == [80_000]


def test_without_any_unit_there_is_no_power(tmp_path: Path) -> None:
    source = opened(tmp_path, "timestamp, power.draw", "2024/01/01 12:00:00.000, 80.00")
    assert [type(one) for one in read_all(source)] == [Failure]


@pytest.mark.parametrize("header", ["timestamp, temperature.gpu", "power.draw [W], name", "2024/01/01 12:00:00, 1"])
def test_a_recording_without_its_columns_is_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(SourceUnavailable, match="has no column") as refused:
        opened(tmp_path, header, "1, 2")
    assert "--format=csv" in refused.value.mend


def test_an_empty_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="no line"):
        opened(tmp_path, HEADER)


def test_a_missing_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match=r"nothing\.csv"):
        open({"path": str(tmp_path / "nothing.csv")})


def test_a_recording_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gpu.csv").write_bytes(HEADER.encode("utf-16"))
    with pytest.raises(SourceUnavailable, match="UTF-8"):
        open({"path": str(tmp_path / "gpu.csv")})


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="speed"):
        opened(tmp_path, HEADER, speed=2)


def test_a_model_that_is_named_owns_the_boards_and_counts_nothing(tmp_path: Path) -> None:
    lines = [f"2024/01/01 12:00:0{k}.000, {80 + k}.00" for k in range(3)]
    source = opened(tmp_path, HEADER, *lines, model="llama")
    (engine,) = [one for one in source.declares if isinstance(one, Engine)]
    assert [device.meter for device in engine.devices] == [meter.id for meter in meters(source)]
    said = [one for one in read_all(source) if isinstance(one, WorkReading)]
    assert [one.at_ns - NOON_NS for one in said] == [0, NS_PER_S, 2 * NS_PER_S]
    assert all(one.counts == {WorkKey("llama"): Counts()} for one in said)
