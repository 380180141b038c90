"""Windows tile an hour, on the same instants everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.grid import DEFAULT_STEP_NS, HOUR_NS, TRACE_STEP_NS, check_step, floor_to, from_rfc3339, rfc3339

S_NS = 10**9
steps = st.sampled_from([s * S_NS for s in range(1, 3601) if 3600 % s == 0])


def test_the_defaults_fit_each_other() -> None:
    assert (HOUR_NS, DEFAULT_STEP_NS, TRACE_STEP_NS) == (3600 * S_NS, 60 * S_NS, 10 * S_NS)
    assert check_step(DEFAULT_STEP_NS) % check_step(TRACE_STEP_NS) == 0


@given(st.integers(-5, 4000))
def test_a_step_that_divides_an_hour_is_taken_and_no_other(step_s: int) -> None:
    if step_s > 0 and 3600 % step_s == 0:
        assert check_step(step_s * S_NS) == step_s * S_NS
    else:
        with pytest.raises(ValueError, match=f"{step_s} s does not divide"):
            check_step(step_s * S_NS)


@pytest.mark.parametrize("step_ns", [S_NS // 2, 10 * S_NS + 1, 1])
def test_a_step_is_whole_seconds(step_ns: int) -> None:
    with pytest.raises(ValueError, match="whole seconds"):
        check_step(step_ns)


@given(st.integers(-(2**62), 2**62), steps)
def test_each_instant_lies_in_one_window_and_each_window_in_one_hour(at_ns: int, step_ns: int) -> None:
    start_ns = floor_to(at_ns, step_ns)
    assert start_ns <= at_ns < start_ns + step_ns
    assert start_ns % step_ns == 0
    assert floor_to(start_ns, HOUR_NS) == floor_to(start_ns + step_ns - 1, HOUR_NS)
    assert floor_to(start_ns, step_ns) == start_ns


def test_an_instant_in_utc() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00Z"
    assert rfc3339(1_790_000_000 * S_NS + S_NS - 1) == "2026-09-21T14:13:20Z"


@given(st.integers(0, 253_402_300_799))
def test_an_instant_in_words_comes_back(seconds: int) -> None:
    assert from_rfc3339(rfc3339(seconds * S_NS)) == seconds * S_NS


def test_an_instant_has_its_offset() -> None:
    assert from_rfc3339("1970-01-01T01:00:01.5+01:00") == 1_500_000_000
    for text in ("2026-01-31T12:00:00", "noon", ""):
        with pytest.raises(ValueError, match=f"'{text}' is no time"):
            from_rfc3339(text)
