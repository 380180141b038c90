"""The whole explanation, over a real store with windows that were accounted by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from joulefleet.window import Window
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.api import BadQuestion
from joulefleet_collector.explain import explanation
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.retention import Keep
from joulefleet_collector.store.store import DAY_NS, StoreUnavailable

Shared = Callable[..., Window]
Put = Callable[..., int]
Tell = Callable[..., dict[str, Any]]
A = {"model": "model-a"}


def test_two_engines_on_one_board_as_worked_out_by_hand(put: Put, told: Tell, shared: Shared) -> None:
    put(*(shared(minute) for minute in range(3)))
    found = told(**A)
    assert found["equation"] == ("61,680.0 J (3 windows of 60 s, 1 server) / 27,000 output tokens = 2.284 J/token")
    assert found["value"] == pytest.approx(20_560 / 9_000)
    assert found["where"] == {
        "model": ["model-a"],
        "hardware": ["H100"],
        "boundary": ["accelerator"],
        "simulated": ["false"],
    }
    assert found["joules"] == {
        "bucket": {"active": 55_200.0, "idle": 6_480.0},
        "method": {"busy": 55_200.0, "reservation": 6_480.0},
        "grade": {"counter": 61_680.0},
        "sensor_class": {"onboard": 61_680.0},
    }
    assert found["boundary"] == {
        "metered_j": 99_000.0,
        "figure_j": 61_680.0,
        "active_j": 82_800.0,
        "idle_j": 16_200.0,
        "idle_unallocated_j": 0.0,
        "unattributed_j": 0.0,
        "unmatched_j": 0.0,
    }
    (meter,) = found["meters"]
    assert (meter["first_uj"], meter["last_uj"], meter["counter_residual_uj"]) == ("1000000000", "100000000000", 0)
    assert [one["meter"] for one in found["left_out"]] == ["gpu0-again"]
    assert found["policy"]["pair_threshold"] == 0.95
    assert {one["what"] for one in found["versions"]} >= {"agent", "config", "driver", "engine", "schema"}
    assert len(found["listed"]) == 3


def test_the_windows_make_the_sums_of_the_report(put: Put, told: Tell, shared: Shared) -> None:
    put(*(shared(minute) for minute in range(70)))
    found = told(**A)
    assert found["check"]["agrees"]
    assert [one["residual"] for one in found["check"]["fields"]] == pytest.approx([0.0] * 6, abs=1e-6)
    terms = {one["term"]: one["relative"] for one in found["uncertainty"]["terms"]}
    assert terms["gain_onboard"] == pytest.approx(0.05)
    assert sum(value**2 for value in terms.values()) == pytest.approx(found["uncertainty"]["relative"] ** 2)


def test_a_refused_figure_is_explained_with_its_reason(put: Put, told: Tell, shared: Shared) -> None:
    hung = {"covered_ns": 0, "gaps_ns": {"hung": 60 * 10**9}}
    put(*(shared(minute, board=hung if minute else {}) for minute in range(3)))
    found = told(**A)
    assert (found["value"], found["status"]) == (None, "refused")
    assert "no figure: coverage too low: 33.3%" in found["equation"]
    assert found["windows"]["unpaired"] == 2
    (why,) = found["obstacles"]
    assert (why["code"], why["subject"], why["reasons"], why["windows"]) == ("meter", "gpu0", "hung", 2)
    assert any("2 of 3 windows do not pair" in one for one in found["doubtful"])


def test_what_is_no_longer_kept_rests_on_sums(store: EmbeddedStore, put: Put, told: Tell, shared: Shared) -> None:
    put(*(shared(minute) for minute in (0, 1, 60)))
    whole = told(**A)
    keep = Keep(windows_ns=1_800 * 10**9, minutes_ns=90 * DAY_NS)
    store.prune(keep, shared(61).start_ns)
    found = told(**A)
    assert (found["value"], found["sums"]) == (whole["value"], whole["sums"])
    assert found["windows"]["counted"] == 1
    assert [one["since"] for one in found["check"]["sums_only"]] == ["2027-01-15T08:00:00Z"]
    assert any("rests on sums alone" in one for one in found["doubtful"])
    assert {one["term"] for one in found["uncertainty"]["terms"]} >= {"independent"}


def test_a_time_of_which_minutes_are_gone_is_that_of_the_report(
    store: EmbeddedStore, put: Put, told: Tell, shared: Shared
) -> None:
    put(*(shared(minute) for minute in (10, 40, 61)))
    keep = Keep(windows_ns=90 * DAY_NS, minutes_ns=0)
    while store.prune(keep, shared(130).start_ns).more:
        pass
    found = told(**A, since="2027-01-15T08:30:00Z", until="2027-01-15T09:30:00Z")
    assert (found["since"], found["until"]) == ("2027-01-15T08:00:00Z", "2027-01-15T09:30:00Z")
    assert found["windows"]["counted"] == 3 and found["check"]["agrees"]


def test_a_store_without_windows_says_so(
    store: EmbeddedStore, put: Put, told: Tell, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shared())

    def none(*_: object) -> None:
        raise StoreUnavailable("http://influx", "only rows are kept here", "use another")

    monkeypatch.setattr(store, "windows", none)
    found = told(**A)
    assert found["windows"]["none_kept"] == "http://influx keeps no windows, only their sums"
    assert found["equation"].startswith("20,560.0 J (from sums, no window of it is kept) / 9,000 output tokens")
    assert found["listed"] == [] and found["check"]["sums_only"]
    assert {one["what"]: one["value"] for one in found["versions"]} == {
        "agent": "0.1.0",
        "config": "c0ffee",
        "driver": "570",
    }


def test_sums_of_another_policy_are_found_out(put: Put, told: Tell, shared: Shared) -> None:
    barely = {"covered_ns": 50 * 10**9}
    put(*(shared(minute, board=barely) for minute in range(2)))
    found = told(Policy(version=2, pair_threshold=0.8), **A)
    assert not found["check"]["agrees"]
    assert any("joulefleet store recount" in one for one in found["doubtful"])


def test_one_row_is_explained_and_its_step_if_it_has_one(put: Put, told: Tell, shared: Shared) -> None:
    put(*(shared(minute) for minute in (59, 60, 61)))
    with pytest.raises(BadQuestion, match=r"2 rows match, .*: model=model-a, model=model-b;"):
        told()
    assert told(by="")["boundary"]["figure_j"] == 99_000.0
    with pytest.raises(BadQuestion, match=r"start=2027-01-15T08:00:00Z, start=2027-01-15T09:00:00Z"):
        told(**A, step="hour")
    found = told(**A, step="hour", until="2027-01-15T09:00:00Z")
    assert (found["windows"]["counted"], found["since"]) == (1, "2027-01-15T08:00:00Z")
    assert found["check"]["agrees"]


def test_too_many_windows_are_not_gone_through(
    put: Put, told: Tell, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(*(shared(minute) for minute in range(3)))
    monkeypatch.setattr(explanation, "MAX_WINDOWS", 2)
    with pytest.raises(BadQuestion, match="more than 2 windows of 1 servers lie in this time: narrow it by since"):
        told(**A)


def test_what_is_no_tag_or_no_figure_is_refused(put: Put, told: Tell, shared: Shared) -> None:
    put(shared())
    with pytest.raises(BadQuestion, match="'colour' is no tag"):
        told(colour="red")
    with pytest.raises(BadQuestion, match="no engine of this question"):
        told(model="other")
