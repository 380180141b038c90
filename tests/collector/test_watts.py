"""What a person sees of fitted watts, and that the config's lines are read back as they were meant."""

import json
import tomllib

import msgspec
import pytest

from joulefleet.config import typed
from joulefleet_collector.account.fit import Fit
from joulefleet_collector.account.policy import BusyWatts, Policy
from joulefleet_collector.watts import toml_of, watts_json, watts_text, with_watts


def watts(model: str, prefill_w: float, hardware: str = "H100") -> BusyWatts:
    return BusyWatts(hardware=hardware, model=model, prefill_w=prefill_w, decode_w=210.125)


GOOD = Fit(
    hardware="H100",
    models=("a", "b"),
    windows=512,
    condition=3.25,
    residual=0.0123,
    watts=(watts("a", 400), watts("b", 600)),
)
BAD = Fit(hardware="L4", models=("c",), windows=7, refused="7 windows, fewer than 200")


def test_the_table_shows_each_model_and_why_a_fit_was_refused() -> None:
    policy = with_watts(Policy(), [GOOD, BAD])
    head, a, b, c, _, why, *_ = watts_text([GOOD, BAD], policy).splitlines()
    assert head.split() == ["hardware", "model", "prefill", "W", "decode", "W", "windows", "condition", "residual"]
    assert a.split() == ["H100", "a", "400.0", "210.1", "512", "3.2", "1.2%"]
    assert b.split()[:3] == ["H100", "b", "600.0"]
    assert c.split() == ["L4", "c", "-", "-", "7", "-", "-"]
    assert why == "L4, c: refused, 7 windows, fewer than 200"


def test_lines_for_the_config_are_the_policy_under_a_new_version() -> None:
    before = Policy(version=3, busy_watts=(watts("a", 1), watts("old", 2, "A100")))
    policy = with_watts(before, [GOOD, BAD])
    assert policy is not None
    text = watts_text([GOOD], policy)
    assert toml_of(policy) in text and "joulefleet store recount" in text
    read = typed(tomllib.loads(toml_of(policy))["policy"], Policy, "c.toml")
    assert read == policy
    assert read.version == 4
    assert read.busy_watts == (watts("old", 2, "A100"), watts("a", 400), watts("b", 600))


@pytest.mark.parametrize("model", ['a "b" \\ c', "line\nend", "del\x7f", "Ü\U0001f600"])
def test_names_of_any_kind_come_through(model: str) -> None:
    policy = Policy(busy_watts=(watts(model, 1.5),))
    assert typed(tomllib.loads(toml_of(policy))["policy"], Policy, "c.toml") == policy


def test_without_a_fit_there_is_no_policy_to_copy() -> None:
    assert with_watts(Policy(), [BAD]) is None
    assert "[policy]" not in watts_text([BAD], None)
    assert "busy seconds" in watts_text([], None)
    assert watts_json([BAD], None)["policy"] is None


def test_programs_read_the_same() -> None:
    told = json.loads(json.dumps(watts_json([GOOD, BAD], with_watts(Policy(), [GOOD]))))
    assert told["policy"]["version"] == 2
    assert told["policy"]["busy_watts"][0] == {"hardware": "H100", "model": "a", "prefill_w": 400, "decode_w": 210.125}
    assert msgspec.convert(told["fits"], list[Fit]) == [GOOD, BAD]
