"""The simulated server: its counters against an independent integration, and against its own truth."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.config import ConfigError
from joulefleet.describe import Engine, Meter
from joulefleet.reading import Counts, MeterReading, Reading, WorkKey, WorkReading
from joulefleet.source import SourceGone, SourceUnavailable
from joulefleet.units import NS_PER_S
from joulefleet_plugins.meters.simulated import SimulatedConfig, SimulatedServer, open, truth

START_S = 1_767_225_600
HOUR_S = 3600
FLAT = SimulatedConfig(daily_swing=0.0)
WAVY = SimulatedConfig(daily_swing=0.8)


def at(second: float) -> int:
    return START_S * NS_PER_S + round(second * NS_PER_S)


def clock(*seconds: float) -> Callable[[], int]:
    return iter([at(second) for second in seconds]).__next__


def read_at(config: SimulatedConfig, second: float) -> Sequence[Reading]:
    return SimulatedServer(config, clock(second)).read()


def counter(readings: Sequence[Reading], meter: str) -> int:
    (value,) = [one.counter_uj for one in readings if isinstance(one, MeterReading) and one.meter == meter]
    assert value is not None
    return value


def work(readings: Sequence[Reading]) -> WorkReading:
    (reading,) = [one for one in readings if isinstance(one, WorkReading)]
    return reading


def done(readings: Sequence[Reading]) -> Counts:
    return work(readings).counts[WorkKey("sim-8b")]


def test_a_steady_hour_has_the_joules_that_the_configuration_says() -> None:
    hour = truth(FLAT, at(0), at(HOUR_S))
    # 10,000 tokens a second at 0.2 + 4 * 0.02 J; eight boards idle at 75 W; the host 600 W and a quarter on top.
    assert hour.accelerator_j == pytest.approx((8 * 75 + 2800) * HOUR_S, rel=1e-9)
    assert hour.server_j == pytest.approx((8 * 75 + 600 + 2800 * 1.25) * HOUR_S, rel=1e-9)
    assert (hour.output_tokens, hour.prompt_tokens, hour.requests) == (36_000_000, 144_000_000, 180_000)


def test_counters_follow_the_load_that_a_plain_sum_follows() -> None:
    step_s, tokens, server_j = 10, 0.0, 0.0
    for middle_s in range(step_s // 2, 7 * HOUR_S, step_s):
        load = 1 + 0.8 * math.sin(math.tau * (START_S + middle_s) / 86_400)
        tokens += 10_000 * load * step_s
        server_j += (1200 + 3500 * load) * step_s
    seven_hours = truth(WAVY, at(0), at(7 * HOUR_S))
    assert seven_hours.output_tokens == pytest.approx(tokens, rel=1e-6)
    assert seven_hours.server_j == pytest.approx(server_j, rel=1e-6)


def test_a_day_of_swing_is_a_day_of_mean_load() -> None:
    assert truth(WAVY, at(5), at(5 + 86_400)) == truth(FLAT, at(5), at(5 + 86_400))


def test_readings_tell_the_truth() -> None:
    first, last = read_at(WAVY, 100), read_at(WAVY, 12_345.678)
    known = truth(WAVY, at(100), at(12_345.678))
    boards_uj = sum(counter(last, f"sim-board{n}") - counter(first, f"sim-board{n}") for n in range(8))
    assert boards_uj / 1e6 == known.accelerator_j
    assert (counter(last, "sim-server") - counter(first, "sim-server")) / 1e6 == known.server_j
    assert (done(last).output_tokens or 0) - (done(first).output_tokens or 0) == known.output_tokens
    assert (done(last).requests_ok or 0) - (done(first).requests_ok or 0) == known.requests


def test_power_is_the_slope_of_the_counter() -> None:
    config = SimulatedConfig(daily_swing=0.8, release_at_s=START_S + 50)
    for second in (10, 20_000):
        before, now, after = (read_at(config, second + shift) for shift in (-0.5, 0, 0.5))
        for reading in now:
            if isinstance(reading, MeterReading):
                slope_mw = (counter(after, reading.meter) - counter(before, reading.meter)) / 1e3
                assert reading.power_mw == pytest.approx(slope_mw, rel=1e-5)


instants = st.lists(st.integers(0, 3 * 365 * 86_400 * 1000), min_size=2, max_size=10)
configs = st.builds(
    SimulatedConfig,
    boards=st.integers(1, 8),
    daily_swing=st.floats(0, 1),
    output_tokens_per_s=st.floats(0.01, 1e5),
    release_at_s=st.sampled_from([0, START_S - 10, START_S + 1000, START_S + 86_400]),
    release_factor=st.floats(0.5, 2),
)


@given(config=configs, milliseconds=instants)
def test_intervals_add_up_and_nothing_runs_backwards(config: SimulatedConfig, milliseconds: list[int]) -> None:
    # Whole seconds: at a swing of 1 the load stands still once a day, within the rounding of a float.
    edges = sorted({at(one // 1000) for one in milliseconds})
    parts = [truth(config, a, b) for a, b in pairwise(edges)]
    whole = truth(config, edges[0], edges[-1])
    for field in ("requests", "prompt_tokens", "output_tokens", "accelerator_j", "server_j"):
        assert all(getattr(part, field) >= 0 for part in parts)
        assert sum(getattr(part, field) for part in parts) == pytest.approx(getattr(whole, field), rel=1e-12, abs=1e-9)
    assert all(part.accelerator_j <= part.server_j for part in parts)


@given(config=configs, milliseconds=instants)
def test_no_reading_exceeds_the_declared_maximum(config: SimulatedConfig, milliseconds: list[int]) -> None:
    server = SimulatedServer(config, iter([at(one / 1000) for one in milliseconds]).__next__)
    most = {one.id: one.max_power_mw for one in server.declares if isinstance(one, Meter)}
    for _ in milliseconds:
        for reading in server.read():
            if isinstance(reading, MeterReading):
                assert 0 <= (reading.power_mw or 0) <= most[reading.meter] + 1


def test_two_readers_and_a_restarted_one_agree() -> None:
    once, again = SimulatedServer(WAVY, clock(10, 20)), SimulatedServer(WAVY, clock(20))
    once.read()
    assert once.read() == again.read()


def test_a_release_changes_version_and_dynamic_energy_from_its_second_on() -> None:
    config = SimulatedConfig(daily_swing=0.0, release_at_s=START_S + HOUR_S, release_factor=1.08)
    before, after = truth(config, at(0), at(HOUR_S)), truth(config, at(HOUR_S), at(2 * HOUR_S))
    assert before == truth(FLAT, at(0), at(HOUR_S))
    assert after.output_tokens == before.output_tokens
    assert after.accelerator_j - before.accelerator_j == pytest.approx(0.08 * 2800 * HOUR_S, rel=1e-9)
    assert after.server_j - before.server_j == pytest.approx(0.08 * 3500 * HOUR_S, rel=1e-9)
    versions = [work(read_at(config, second)).version for second in (HOUR_S - 1, HOUR_S)]
    assert versions == ["1.0", "1.1"]


def test_the_server_counter_may_move_seldom() -> None:
    config = msgspec.structs.replace(WAVY, server_refresh_s=60.0)
    values = [counter(read_at(config, second), "sim-server") for second in (60, 61, 119.999, 120)]
    assert values[0] == values[1] == values[2] < values[3]
    assert values[3] == counter(read_at(WAVY, 120), "sim-server")
    (server,) = [one for one in SimulatedServer(config, clock()).declares if one.id == "sim-server"]
    assert isinstance(server, Meter)
    assert server.refresh_ns == 60 * NS_PER_S


def test_requests_in_flight_follow_the_load_and_are_never_none() -> None:
    quiet = SimulatedConfig(output_tokens_per_s=1.0, daily_swing=1.0)
    assert work(read_at(quiet, 18 * HOUR_S)).running == 1
    # 10,000 tokens a second at 50 for each request.
    assert work(read_at(FLAT, 5)).running == 200
    assert work(read_at(WAVY, 6 * HOUR_S)).running == 360


def test_every_request_takes_the_same_time() -> None:
    reading = work(read_at(FLAT, 100))
    histogram = reading.latency[WorkKey("sim-8b")]["e2e"]
    assert histogram == {"3.6": 0, "4": 5000}


def test_declares_boards_a_server_that_contains_them_and_an_engine_on_all_of_them() -> None:
    declares = SimulatedServer(SimulatedConfig(boards=2, hardware="CHIP"), clock()).declares
    boards = [one for one in declares if isinstance(one, Meter) and one.kind == "accelerator"]
    (server,) = [one for one in declares if isinstance(one, Meter) and one.kind == "server"]
    (engine,) = [one for one in declares if isinstance(one, Engine)]
    assert all(one.simulated for one in declares)
    assert {one.grade for one in [*boards, server]} == {"counter"}
    assert [one.hw_model for one in boards] == ["CHIP", "CHIP"]
    assert {one.inside for one in boards} == {server.id}
    assert {"accelerator", "cpu_package", "dram", "host"} <= set(server.contains)
    assert [one.meter for one in engine.devices] == [one.id for one in boards]
    assert boards[0].idle_mw == 75_000
    assert server.idle_mw == 750_000


def test_before_its_start_there_is_nothing() -> None:
    with pytest.raises(SourceUnavailable, match="later"):
        read_at(FLAT, -1)
    assert truth(FLAT, at(-HOUR_S), at(0)).server_j == 0


def test_opened_it_runs_by_the_clock_of_the_host() -> None:
    source = open({"boards": 1, "period_s": 0.5, "start_s": 1_700_000_000})
    assert source.period_ns == NS_PER_S // 2
    first, second = source.read(), source.read()
    assert counter(first, "sim-server") <= counter(second, "sim-server")
    assert work(first).at_ns > 1_700_000_000 * NS_PER_S


@pytest.mark.parametrize("wrong", [{"boards": 0}, {"daily_swing": 1.5}, {"output_tokens_per_s": 0}, {"speed": 1}])
def test_a_configuration_that_cannot_be_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        open(wrong)


def test_a_span_is_a_recording_that_gives_the_same_readings_and_ends() -> None:
    span = {"boards": 1, "from_s": 1_800_000_000, "until_s": 1_800_000_100, "period_s": 10.0}
    first, second = open(span), open(span)
    one, two = first.read(), second.read()
    assert one == two
    instants = [reading.at_ns for reading in one if isinstance(reading, WorkReading)]
    assert instants == [(1_800_000_000 + 10 * k) * NS_PER_S for k in range(11)]
    with pytest.raises(SourceGone):
        first.read()
