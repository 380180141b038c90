"""A gain on a meter: windows still add up, exactly, over wraps and however often it is read."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.counter import CounterTrack, Gap, Pair, Rules
from joulefleet.describe import Engine, Meter
from joulefleet.gain import PPM, Gain, Scale, Scaler, calibrated, class_of
from joulefleet.reading import Failure, MeterReading, WorkReading

S = 1_000_000_000
METER = Meter(id="m", kind="cpu_package", grade="counter", sensor_class="onboard")
GAINS = st.integers(500_000, 2_000_000)


def gain(ppm: int = 1_040_000, uncertainty_ppm: int = 12_000, meter: str = "m") -> Gain:
    one = Gain(meter=meter, gain_ppm=ppm, uncertainty_ppm=uncertainty_ppm, reference="pdu", when="2026-01-01T00:00:00Z")
    return msgspec.structs.replace(one, version="v1")


def said(counter_uj: int | None = None, power_mw: int | None = None, meter: str = "m") -> MeterReading:
    return MeterReading(meter=meter, at_ns=5, counter_uj=counter_uj, power_mw=power_mw, gauges={"x_pct": 1.0})


@given(GAINS, st.integers(0, 10**14), st.lists(st.integers(0, 10**9), min_size=1, max_size=60))
def test_scaled_windows_add_up_to_the_scaled_ends(ppm: int, start_uj: int, steps_uj: list[int]) -> None:
    scaler = Scaler({"m": gain(ppm)})
    (meter,) = scaler.declared([METER])
    assert isinstance(meter, Meter)
    track, pairs, total_uj = CounterTrack(), list[Pair](), start_uj
    for k, step_uj in enumerate([0, *steps_uj]):
        total_uj += step_uj
        (one,) = scaler.said([said(total_uj)])
        assert isinstance(one, MeterReading) and one.counter_uj is not None
        told = track.feed(Rules.of(meter), k * S, one.counter_uj, "")
        pairs += [told] if isinstance(told, Pair) else []
    assert sum(one.last_uj - one.first_uj for one in pairs) == total_uj * ppm // PPM - start_uj * ppm // PPM


@given(GAINS, st.integers(10**6, 10**12), st.data())
def test_not_a_microjoule_is_lost_or_made_over_wraps(ppm: int, modulus_uj: int, data: st.DataObject) -> None:
    # Rated so that 1.2 times of it go round 0.8 times in a second: one wrap is possible, and no more.
    meter = msgspec.structs.replace(METER, modulus_uj=modulus_uj, max_power_mw=modulus_uj * 2 // 3_000)
    scaler = Scaler({"m": gain(ppm)})
    (declared,) = scaler.declared([meter])
    assert isinstance(declared, Meter)
    steps_uj = data.draw(st.lists(st.integers(0, modulus_uj // 2), min_size=1, max_size=60))
    track, total_uj, summed_uj = CounterTrack(), 0, 0
    for k, step_uj in enumerate([0, *steps_uj]):
        total_uj += step_uj
        (one,) = scaler.said([said(total_uj % modulus_uj)])
        assert isinstance(one, MeterReading) and one.counter_uj is not None and one.counter_uj < declared.modulus_uj
        told = track.feed(Rules.of(declared), k * S, one.counter_uj, "")
        assert not isinstance(told, Gap)
        summed_uj += told.last_uj - told.first_uj if told else 0
    assert summed_uj == Scale.of(gain(ppm), meter).down(total_uj)


@given(GAINS, st.integers(10**6, 10**12), st.integers(0, 10**16))
def test_a_full_turn_is_a_full_turn_and_the_factor_is_the_gain(ppm: int, modulus_uj: int, total_uj: int) -> None:
    meter = msgspec.structs.replace(METER, modulus_uj=modulus_uj)
    scale, declared = Scale.of(gain(ppm), meter), calibrated(meter, gain(ppm))
    wraps, rest_uj = divmod(total_uj, modulus_uj)
    assert wraps * declared.modulus_uj + scale.down(rest_uj) == scale.down(total_uj)
    assert abs(scale.numerator / scale.denominator - ppm / PPM) <= 0.5 / modulus_uj + 1e-12


def test_a_calibrated_meter_tells_so() -> None:
    bounds = {"resolution_uj": 100, "max_power_mw": 400_001, "idle_mw": 50_000, "modulus_uj": 1_000_000}
    meter = msgspec.structs.replace(METER, **bounds)
    found = calibrated(meter, gain(1_040_000, 12_000))
    assert (found.gain_ppm, found.calibration, found.sensor_class) == (1_040_000, "v1", "platform")
    assert [getattr(found, name) for name in bounds] == [104, 416_002, 52_000, 1_040_000]
    assert found != meter and METER.gain_ppm == PPM and METER.calibration == ""


@pytest.mark.parametrize(
    ("uncertainty_ppm", "found"),
    [(10_000, "reference"), (10_001, "platform"), (50_000, "onboard"), (150_000, "modelled"), (150_001, None)],
)
def test_the_class_is_the_best_whose_bound_holds(uncertainty_ppm: int, found: str | None) -> None:
    assert class_of(uncertainty_ppm) == found


def test_only_what_has_a_gain_is_changed() -> None:
    scaler = Scaler({"m": gain()})
    other, engine = msgspec.structs.replace(METER, id="n"), Engine(id="m", software="vllm")
    assert scaler.declared([other, engine]) == (other, engine)
    untouched = [said(100, meter="n"), Failure(subject="m", code="x"), WorkReading(engine="m")]
    assert scaler.said(untouched) == tuple(untouched)
    scaler.declared([METER])
    assert scaler.said([said(100, 1_000), *untouched]) == (said(104, 1_040), *untouched)
    assert scaler.said([said(None, 50), said(50, None)]) == (said(None, 52), said(52, None))
