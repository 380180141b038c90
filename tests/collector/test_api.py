"""Questions in words, and answers put together from a real store."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.grid import HOUR_NS
from joulefleet.units import NS_PER_S
from joulefleet_collector.api import BadQuestion, instant, parse_export, parse_usage, rfc3339
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS

NOW_NS = 1_790_000_000 * NS_PER_S + 7


@pytest.mark.parametrize(
    ("text", "at_ns"),
    [
        ("now", NOW_NS),
        ("-90s", NOW_NS - 90 * NS_PER_S),
        ("-15m", NOW_NS - 15 * MINUTE_NS),
        ("-1h", NOW_NS - HOUR_NS),
        ("-7d", NOW_NS - 7 * DAY_NS),
        ("0", 0),
        ("1700000000.5", 1_700_000_000_500_000_000),
        ("1970-01-01T00:01:00Z", MINUTE_NS),
        ("1970-01-01T01:00:01.5+01:00", 1_500_000_000),
    ],
)
def test_instants_in_words(text: str, at_ns: int) -> None:
    assert instant(text, NOW_NS) == at_ns


@pytest.mark.parametrize("text", ["", "yesterday", "1h", "-1w", "2026-01-01T00:00:00", "1960-01-01T00:00:00Z", "1e9"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(BadQuestion):
        instant(text, NOW_NS)


def test_far_instants_are_refused() -> None:
    for text in ("-999999999999d", "999999999999", "9999-01-01T00:00:00Z"):
        with pytest.raises(BadQuestion, match="too far"):
            instant(text, NOW_NS)


@given(st.integers(0, 253_402_300_799))
def test_an_instant_in_words_comes_back(seconds: int) -> None:
    at_ns = seconds * NS_PER_S
    if at_ns < 2**63 - 2 * DAY_NS:
        assert instant(rfc3339(at_ns), 0) == at_ns


def test_the_default_is_the_last_day_in_whole_minutes_by_model_and_hardware() -> None:
    asked = parse_usage([], NOW_NS)
    assert asked.until_ns - MINUTE_NS < NOW_NS <= asked.until_ns
    assert asked.since_ns <= NOW_NS - DAY_NS < asked.since_ns + MINUTE_NS
    assert (asked.by, asked.step, asked.where) == (("model", "hardware"), "none", {})
    assert asked.since_ns % MINUTE_NS == asked.until_ns % MINUTE_NS == 0


def test_options_and_filters_are_told_apart() -> None:
    query = [("since", "all"), ("by", "server,,model,server"), ("step", "hour"), ("model", "a"), ("model", "b")]
    asked = parse_usage([*query, ("boundary", "server")], NOW_NS)
    assert (asked.since_ns, asked.step, asked.by) == (0, "hour", ("server", "model"))
    assert asked.where == {"model": ("a", "b"), "boundary": ("server",)}
    assert asked.until_ns % HOUR_NS == 0
    assert parse_usage([("by", "")], NOW_NS).by == ()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ([("step", "week")], "step 'week' is not one of none, minute, hour, day"),
        ([("since", "now"), ("until", "-1h")], "lies after"),
        ([("since", "x")], "'x' is no time"),
        ([("since", "-1h"), ("since", "-2h")], "said twice"),
        ([("by", "model,tenant"), ("step", "minute")], "'tenant' is known by whole hours"),
        ([("phase", "decode"), ("step", "minute")], "'phase' is known by whole hours"),
        ([("boundary", "server"), ("boundary", "fleet"), ("step", "minute")], "'fleet' is known by whole hours"),
    ],
)
def test_bad_questions_say_what_to_ask_instead(query: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(BadQuestion, match=said):
        parse_usage(query, NOW_NS)


@pytest.mark.parametrize("query", [("by", "tenant"), ("by", "model,phase"), ("tenant", "a")])
def test_tenants_and_phases_are_asked_by_whole_hours(query: tuple[str, str]) -> None:
    asked = parse_usage([query, ("since", "-90m")], NOW_NS)
    assert asked.since_ns % HOUR_NS == asked.until_ns % HOUR_NS == 0
    assert asked.since_ns <= NOW_NS - 90 * MINUTE_NS < NOW_NS <= asked.until_ns


def test_an_export_may_name_a_server_and_nothing_unknown() -> None:
    assert parse_export({"server": "a", "since": "all"}, NOW_NS).server == "a"
    assert parse_export({}, NOW_NS).server is None
    with pytest.raises(BadQuestion, match="'model' is not one of"):
        parse_export({"model": "x"}, NOW_NS)
