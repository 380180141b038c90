"""What some seconds of reading show of a meter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet_agent.watch import Seen, Watch, agreements

S = 1_000_000_000


def watched(*readings: MeterReading, each_ns: int = S) -> Seen:
    watch = Watch()
    for k, one in enumerate(readings):
        watch.feed([Failure(subject="", code="x"), one], k * each_ns)
    (seen,) = watch.seen()
    return seen


def counter(*values_uj: int) -> list[MeterReading]:
    return [MeterReading(meter="m", counter_uj=one) for one in values_uj]


@given(st.integers(1, 10**9), st.integers(1, 5), st.integers(3, 20))
def test_the_power_of_a_counter_is_told_between_its_moves(power_uw: int, refresh: int, moves: int) -> None:
    values = [power_uw * (k // refresh) * refresh for k in range(refresh * (moves + 1))]
    seen = watched(*counter(*values))
    assert seen.refresh_s == refresh
    assert seen.counter_w == pytest.approx(power_uw / 1e6, rel=1e-6, abs=5e-4)


@pytest.mark.parametrize("values", [[5], [5, 5, 5], [5, 7, 7]])
def test_a_value_that_hardly_moved_tells_neither_power_nor_refresh(values: list[int]) -> None:
    seen = watched(*counter(*values))
    assert (seen.refresh_s, seen.counter_w, seen.power_w, seen.reads) == (None, None, None, len(values))


def test_a_counter_that_fell_has_no_power() -> None:
    assert watched(*counter(100, 200, 300, 5)).counter_w is None


def test_a_gauge_is_averaged() -> None:
    seen = watched(*(MeterReading(meter="m", power_mw=one) for one in (1_000, 2_000, 3_000, 3_000)))
    assert (seen.gauge_w, seen.power_w, seen.counter_w, seen.refresh_s) == (2.25, 2.25, None, 1.0)


def gauge(source: str, power_w: float, device: str = "d", **more: object) -> tuple[str, Meter, Seen]:
    meter = Meter(
        id=source, kind=more.get("kind", "accelerator"), grade="integrated", sensor_class="onboard", device=device
    )  # type: ignore[arg-type] # a kind
    return source, meter, Seen(meter=source, gauge_w=power_w)


def test_only_figures_of_one_thing_are_compared() -> None:
    assert agreements([gauge("a", 100.0), gauge("b", 100.0, "other"), gauge("c", 100.0, kind="module")]) == []
    assert agreements([gauge("a", 100.0, ""), gauge("b", 100.0, "")]) == []
    assert agreements([gauge("a", 0.0), gauge("b", 100.0)]) == []


@pytest.mark.parametrize(
    ("other_w", "agrees"), [(119.0, True), (81.0, True), (121.0, False), (79.0, False), (0.0, False)]
)
def test_two_meters_of_one_device_agree_within_a_fifth(other_w: float, agrees: bool) -> None:
    (found,) = agreements([gauge("a", 100.0), gauge("b", other_w)])
    assert (found.subject, found.one, found.other, found.agrees) == ("d", "a", "b", agrees)
