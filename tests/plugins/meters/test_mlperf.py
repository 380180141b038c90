"""The MLPerf replay: joules and work of real runs, and what a log may do wrong."""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.config import ConfigError
from joulefleet.describe import Engine, Meter
from joulefleet.reading import Counts, Failure, MeterReading, Reading, WorkKey, WorkReading
from joulefleet.source import Source, SourceGone, SourceUnavailable
from joulefleet.units import NS_PER_S
from joulefleet_plugins.meters.mlperf import Point, open, parse_power_log, with_instants, within

DATA = Path(os.environ.get("JOULEFLEET_DATA", Path(__file__).parents[3] / "../shared/data")) / "mlperf"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded MLPerf runs are not at {DATA}")

MIDNIGHT_NS = 1_704_067_200 * NS_PER_S
"""2024-01-01T00:00:00Z."""

# Folder, hardware, seconds, joules, samples a second, tokens a second, as an independent integration gave them.
RUNS = [
    ("h200x8-maxq/llama2-70b/offline", "h200x8-maxq", 3116.735, 19_175_588, 86.7369, 25_262.1),
    ("h200x8-maxq/gptj/offline", "h200x8-maxq", 1056.448, 5_044_191, 189.806, 13_096.6),
    ("h200x8-maxq/resnet50/offline", "h200x8-maxq", 652.604, 3_233_734, 556_234, None),
    ("untether-h13-u3-slim/resnet50/offline", "untether-h13-u3-slim", 657.2, 261_698, 168_720, None),
    ("untether-r760-u6-slim/resnet50/offline", "untether-r760-u6-slim", 663.035, 677_125, 334_462, None),
]


def read_all(source: Source) -> list[Reading]:
    readings: list[Reading] = []
    while True:
        try:
            chunk = source.read()
        except SourceGone:
            return readings
        assert chunk
        readings += chunk


def powers(readings: list[Reading]) -> list[tuple[int, int]]:
    return [(one.at_ns, one.power_mw or 0) for one in readings if isinstance(one, MeterReading)]


def counts(readings: list[Reading]) -> list[tuple[int, Counts]]:
    return [(one.at_ns, next(iter(one.counts.values()))) for one in readings if isinstance(one, WorkReading)]


def joules(course: list[tuple[int, int]]) -> float:
    return sum((b[1] + a[1]) / 2 * (b[0] - a[0]) for a, b in pairwise(course)) / 1e12


def power_line(second: float, watts: object) -> str:
    return f"Time,01-01-2024 00:00:{second:06.3f},Watts,{watts},Volts,230.0,Mark,x_testing,Ch1,Watts,1.0,Ch2,Watts,2.0"


def detail_lines(**said: object) -> str:
    usual: dict[str, object] = {
        "loadgen_version": "4.1 @ abc",
        "power_begin": "01-01-2024 00:00:02.500",
        "power_end": "01-01-2024 00:00:06.250",
        "result_samples_per_second": 8,
        "result_tokens_per_second": 800.0,
    }
    told = {key: value for key, value in (usual | said).items() if value is not None}
    return "\n".join(f':::MLLOG {{"key": "{key}", "value": {json.dumps(value)}}}' for key, value in told.items())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of ten seconds: 100 W at second 0, 10 W more each second, measured from 2.5 to 6.25 s."""
    place = tmp_path / "box-1" / "toy" / "offline"
    place.mkdir(parents=True)
    lines = [power_line(second, 100 + 10 * second) for second in range(11)]
    (place / "spl.txt").write_text("\n".join(["PTDaemon is ready", *lines, ""]))
    (place / "mlperf_log_detail.txt").write_text(detail_lines())
    return place


def opened(folder: Path, **more: object) -> Source:
    return open({"path": str(folder), "model": "toy", **more})


@needs_data
@pytest.mark.parametrize(("run", "hardware", "seconds", "expected_j", "samples_per_s", "tokens_per_s"), RUNS)
def test_a_real_run_gives_the_joules_and_the_work_that_an_independent_integration_gave(
    run: str, hardware: str, seconds: float, expected_j: float, samples_per_s: float, tokens_per_s: float | None
) -> None:
    source = opened(DATA / run)
    readings = read_all(source)
    course = powers(readings)
    assert not [one for one in readings if isinstance(one, Failure)]
    assert (course[-1][0] - course[0][0]) / NS_PER_S == pytest.approx(seconds, abs=0.1)
    assert joules(course) == pytest.approx(expected_j, rel=1e-4)
    first, last = counts(readings)[0][1], counts(readings)[-1][1]
    assert first.requests_ok == 0
    assert last.requests_ok == pytest.approx(samples_per_s * seconds, rel=2e-4)
    if tokens_per_s is None:
        assert (first.output_tokens, last.output_tokens) == (None, None)
    else:
        assert last.output_tokens == pytest.approx(tokens_per_s * seconds, rel=2e-4)
    assert {one.hardware for one in source.declares if isinstance(one, Engine)} == {hardware}


@needs_data
def test_joules_per_token_of_a_real_run() -> None:
    readings = read_all(opened(DATA / "h200x8-maxq/llama2-70b/offline"))
    tokens = counts(readings)[-1][1].output_tokens
    assert joules(powers(readings)) / (tokens or 0) == pytest.approx(0.243545, rel=1e-4)


@needs_data
def test_inferred_tokens_are_named_so_in_the_version() -> None:
    versions = {
        run: next(one.version for one in opened(DATA / run).declares if isinstance(one, Engine)) for run, *_ in RUNS[:2]
    }
    assert versions == {RUNS[0][0]: "4.1 @ c60103b05a", RUNS[1][0]: "4.1 @ c60103b05a (tokens inferred)"}


@needs_data
def test_the_whole_log_has_more_joules_and_the_same_work() -> None:
    run = DATA / "untether-h13-u3-slim/resnet50/offline"
    inside, whole = read_all(opened(run)), read_all(opened(run, all=True))
    assert len(powers(whole)) == 916 + 2
    assert joules(powers(whole)) > joules(powers(inside)) + 10_000
    assert counts(whole)[0][1].requests_ok == 0
    assert counts(whole)[-1][1] == counts(inside)[-1][1]


def test_edges_lie_on_the_line_between_their_neighbours(folder: Path) -> None:
    course = powers(read_all(opened(folder)))
    assert course == [
        (MIDNIGHT_NS + 2_500_000_000, 125_000),
        (MIDNIGHT_NS + 3_000_000_000, 130_000),
        (MIDNIGHT_NS + 4_000_000_000, 140_000),
        (MIDNIGHT_NS + 5_000_000_000, 150_000),
        (MIDNIGHT_NS + 6_000_000_000, 160_000),
        (MIDNIGHT_NS + 6_250_000_000, 162_500),
    ]


def test_work_is_spread_evenly_over_the_interval(folder: Path) -> None:
    readings = read_all(opened(folder))
    assert [at_ns for at_ns, _ in counts(readings)] == [at_ns for at_ns, _ in powers(readings)]
    # 8 samples and 800 tokens a second over 3.75 s.
    assert [(one.requests_ok, one.output_tokens) for _, one in counts(readings)] == [
        (0, 0),
        (4, 400),
        (12, 1200),
        (20, 2000),
        (28, 2800),
        (30, 3000),
    ]
    assert {key for one in readings if isinstance(one, WorkReading) for key in one.counts} == {WorkKey("toy")}
    assert counts(readings)[0][1].prompt_tokens is None


def test_the_whole_file_holds_no_work_outside_the_interval(folder: Path) -> None:
    whole = read_all(opened(folder, all=True))
    done = [one.requests_ok for _, one in counts(whole)]
    assert (done[:4], done[-5:]) == ([0, 0, 0, 0], [30, 30, 30, 30, 30])
    assert joules(powers(whole)) == pytest.approx(1500)


def test_reading_again_gives_the_same(folder: Path) -> None:
    assert read_all(opened(folder)) == read_all(opened(folder))


def test_the_end_stays_the_end(folder: Path) -> None:
    source = opened(folder)
    read_all(source)
    with pytest.raises(SourceGone):
        source.read()


def test_declares_a_wall_meter_and_loadgen(folder: Path) -> None:
    wall, engine = opened(folder).declares
    assert isinstance(wall, Meter)
    assert (wall.id, wall.kind, wall.grade, wall.sensor_class, wall.current) == (
        "wall",
        "server",
        "integrated",
        "reference",
        "ac",
    )
    assert {"accelerator", "cpu_package", "dram", "psys", "host"} <= set(wall.contains)
    assert (wall.max_power_mw, wall.period_ns) == (0, NS_PER_S)
    assert isinstance(engine, Engine)
    assert (engine.software, engine.version, engine.hardware) == ("mlperf-loadgen", "4.1 @ abc", "box-1")


def test_hardware_may_be_named(folder: Path) -> None:
    assert {one.hardware for one in opened(folder, hardware="H200").declares if isinstance(one, Engine)} == {"H200"}


@pytest.mark.parametrize(
    "line",
    [
        "Time,01-01-2024 00:00:04.500,Watts,abc,Volts,1",
        "Time,01-01-2024 00:00:04.500,Watts,nan,Volts,1",
        "Time,01-01-2024 00:00:04.500,Watts,-1.0,Volts,1",
        "Time,01-01-2024 00:00:04.500,Volts,230.0,Ch1,Watts,1.0,x",
        "Time,31-31-2024 00:00:04.500,Watts,100.0,Volts,1",
        "Time,01-01-2024 00:00:04.500,Watts,10",
        "Time,01-01-2024 00:00:03.500,Watts,100.0,Volts,1",
    ],
)
def test_a_line_that_is_no_reading_is_a_failure(folder: Path, line: str) -> None:
    log = folder / "spl.txt"
    whole = log.read_text().splitlines()
    log.write_text("\n".join([*whole[:6], line, *whole[6:]]))
    readings = read_all(opened(folder))
    failures = [one for one in readings if isinstance(one, Failure)]
    assert [(one.subject, one.code) for one in failures] == [("wall", "malformed")]
    assert "line 7" in failures[0].detail
    assert len(powers(readings)) == 6


def test_an_edge_inside_a_hole_of_the_log_is_not_made_up(folder: Path) -> None:
    lines = [power_line(second, 100) for second in (0, 1, 8, 9, 10)]
    (folder / "spl.txt").write_text("\n".join(lines))
    (folder / "mlperf_log_detail.txt").write_text(detail_lines(power_end="01-01-2024 00:00:09.500"))
    assert [at_ns - MIDNIGHT_NS for at_ns, _ in powers(read_all(opened(folder)))] == [
        8 * NS_PER_S,
        9 * NS_PER_S,
        9 * NS_PER_S + NS_PER_S // 2,
    ]


@pytest.mark.parametrize("name", ["spl.txt", "mlperf_log_detail.txt"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(SourceUnavailable, match=name) as refused:
        opened(folder)
    assert refused.value.code == "absent"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"power_begin": None}, "no_interval"),
        ({"power_end": None}, "no_interval"),
        ({"power_end": "01-01-2024 00:00:01.000"}, "malformed"),
        ({"power_begin": "yesterday"}, "malformed"),
        ({"power_begin": "01-02-2024 00:00:01.000", "power_end": "01-02-2024 00:00:09.000"}, "no_interval"),
        ({"result_samples_per_second": None}, "no_rate"),
        ({"result_tokens_per_second": "many"}, "malformed"),
    ],
)
def test_a_log_that_does_not_tell_the_run_is_refused(folder: Path, said: dict[str, object], code: str) -> None:
    (folder / "mlperf_log_detail.txt").write_text(detail_lines(**said))
    with pytest.raises(SourceUnavailable) as refused:
        opened(folder)
    assert refused.value.code == code


def test_a_torn_line_of_the_detail_log_is_refused_by_number(folder: Path) -> None:
    (folder / "mlperf_log_detail.txt").write_text(detail_lines() + '\n:::MLLOG {"key": "result_inf')
    with pytest.raises(SourceUnavailable, match="line 6"):
        opened(folder)


def test_the_server_scenario_names_its_rates_differently(folder: Path) -> None:
    said = {
        "result_samples_per_second": None,
        "result_tokens_per_second": None,
        "result_completed_samples_per_sec": 4,
        "result_completed_tokens_per_second": 400,
    }
    (folder / "mlperf_log_detail.txt").write_text(detail_lines(**said))
    assert counts(read_all(opened(folder)))[-1][1] == Counts(requests_ok=15, output_tokens=1500)


def test_no_tokens_are_not_zero_tokens(folder: Path) -> None:
    (folder / "mlperf_log_detail.txt").write_text(detail_lines(result_tokens_per_second=None))
    assert {one.output_tokens for _, one in counts(read_all(opened(folder)))} == {None}


def test_an_unknown_option_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="speed"):
        opened(folder, speed=2)


def test_only_lines_of_the_meter_are_read() -> None:
    assert parse_power_log(["", "Ready", "time,x", power_line(1, 5.0)]) == [Point(MIDNIGHT_NS + NS_PER_S, 5000)]


@given(
    steps=st.lists(st.tuples(st.integers(1, 3 * NS_PER_S), st.integers(0, 10**7)), min_size=2, max_size=30),
    parts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_points_on_the_line_keep_the_area(steps: list[tuple[int, int]], parts: tuple[float, float]) -> None:
    at_ns, course = 0, []
    for step_ns, power_mw in steps:
        at_ns += step_ns
        course.append(Point(at_ns, power_mw))
    first, last = course[0].at_ns, course[-1].at_ns
    begin_ns, end_ns = sorted(first + int(part * (last - first)) for part in parts)
    finer = with_instants(course, (begin_ns, end_ns))
    inside = within(finer, begin_ns, end_ns)
    whole = [(one.at_ns, one.power_mw) for one in finer if isinstance(one, Point)]
    assert (inside[0], inside[-1]) == (
        next(one for one in finer if isinstance(one, Point) and one.at_ns == begin_ns),
        next(one for one in reversed(finer) if isinstance(one, Point) and one.at_ns == end_ns),
    )
    # A point is rounded to a milliwatt, over at most the two pairs of six seconds that it touches.
    assert joules(whole) == pytest.approx(joules([(one.at_ns, one.power_mw) for one in course]), abs=0.012)
