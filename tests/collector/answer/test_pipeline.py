"""Answers put together from a real store."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from joulefleet.grid import HOUR_NS
from joulefleet.reading import Counts, WorkKey
from joulefleet.units import NS_PER_S
from joulefleet.window import Losses, Window, Work
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.answer.pipeline import answer_usage
from joulefleet_collector.answer.totals import Rules
from joulefleet_collector.api import BadQuestion, parse_usage, rfc3339
from joulefleet_collector.rows import Row
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.retention import Keep
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS, Accounted

NOW_NS = 1_790_000_000 * NS_PER_S + 7


@pytest.fixture
def store(
    tmp_path: Path, a_window: Callable[..., Window], account: Callable[[Window], list[Row]]
) -> Iterator[EmbeddedStore]:
    windows = [
        a_window("a", 0, 600.0, 10),
        a_window("a", 61, 300.0, 20),
        a_window("b", 0, 100.0, 0, simulated=True, losses=Losses(windows=1)),
        a_window("c", 0, 50.0, engines=(), timeline=1),
        a_window("c", 0, 50.0, engines=(), timeline=2),
    ]
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        opened.write([Accounted(one, one.encode(), account(one)) for one in windows], 1)
        yield opened


def asked(store: EmbeddedStore, *query: tuple[str, str]) -> dict[str, Any]:
    return answer_usage(store, parse_usage([("since", "all"), *query], NOW_NS), Rules())


def test_simulated_and_real_are_never_added(store: EmbeddedStore) -> None:
    rows = asked(store)["rows"]
    assert [(row["model"], row["simulated"], row["joules_per_request"]) for row in rows] == [
        ("llama", False, 30.0),
        ("llama", True, None),
    ]


def test_steps_have_their_start(store: EmbeddedStore, start_ns: int) -> None:
    rows = asked(store, ("step", "hour"), ("server", "a"))["rows"]
    assert [(row["start"], row["joules_per_request"]) for row in rows] == [
        (rfc3339(start_ns), 60.0),
        (rfc3339(start_ns + HOUR_NS), 15.0),
    ]


def test_a_server_without_an_engine_is_in_the_ledger(store: EmbeddedStore) -> None:
    answer = asked(store, ("by", "server"), ("server", "c"))
    assert answer["rows"] == []
    (entry,) = answer["ledger"]
    assert (entry["server"], entry["metered_j"]) == ("c", 100.0)


def test_warnings_concern_only_what_was_asked(store: EmbeddedStore) -> None:
    def codes(*query: tuple[str, str]) -> list[object]:
        return [one["code"] for one in asked(store, *query)["warnings"]]

    assert codes() == ["two_agents_or_clock", "agent_losses"]
    assert codes(("server", "a")) == []
    assert codes(("server", "c"), ("boundary", "server")) == ["two_agents_or_clock"]
    assert codes(("server", "a"), ("model", "llama")) == ["ledger_of_whole_servers"]


def test_time_of_which_no_account_of_a_live_agent_tells_is_told_and_recordings_may_lie_apart(
    tmp_path: Path, a_window: Callable[..., Window], account: Callable[[Window], list[Row]], start_ns: int
) -> None:
    def rows(window: Window) -> list[Row]:
        """Of a live agent the memory is known."""
        known = {"rss_bytes": 7.0} if window.server == "live" else {}
        return [
            msgspec.structs.replace(row, fields=row.fields | known) if row.kind == "agent" else row
            for row in account(window)
        ]

    windows = [a_window(server, minute, timeline=minute) for server in ("live", "recorded") for minute in (0, 5)]
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store:
        store.write([Accounted(one, one.encode(), rows(one)) for one in windows], 1)
        (told,) = (one for one in asked(store)["warnings"] if one["code"] == "spool_lost")
    minutes = [rfc3339(start_ns + minute * MINUTE_NS) for minute in (1, 5)]
    assert (told["server"], told["since"], told["until"]) == ("live", *minutes)


def test_an_unknown_tag_is_refused_with_those_there_are(store: EmbeddedStore) -> None:
    for query in (("by", "modle"), ("modle", "x")):
        with pytest.raises(BadQuestion, match=r"'modle' is no tag; there are .*model.*rack"):
            asked(store, query)
    assert asked(store, ("by", "rack"))["rows"][0]["rack"] == "r1"


def test_where_minutes_are_gone_the_answer_is_about_whole_hours_and_says_so(
    store: EmbeddedStore, start_ns: int, a_window: Callable[..., Window], account: Callable[[Window], list[Row]]
) -> None:
    later = a_window("a", 10 * 1440, 7.0)
    store.write([Accounted(later, later.encode(), account(later))], later.end_ns)
    times = (("since", rfc3339(start_ns + 61 * MINUTE_NS)), ("until", rfc3339(start_ns + 90 * MINUTE_NS)))

    def answer(*query: tuple[str, str]) -> dict[str, Any]:
        return answer_usage(store, parse_usage([*times, *query], start_ns + 10 * DAY_NS), Rules())

    assert (answer()["since"], answer()["until"]) == (times[0][1], times[1][1])
    store.settle()
    store.prune(Keep(minutes_ns=DAY_NS), later.end_ns)
    widened = answer()
    assert (widened["since"], widened["until"]) == (rfc3339(start_ns + HOUR_NS), rfc3339(start_ns + 2 * HOUR_NS))
    assert [row["energy_j"] for row in widened["rows"]] == [300.0]
    with pytest.raises(BadQuestion, match="whole hours or days"):
        answer(("step", "minute"))


def test_sensors_that_are_not_well_are_named_where_the_ledger_tells_of_any(
    store: EmbeddedStore, a_window: Callable[..., Window]
) -> None:
    assert not {"unvalidated", "hung"} & {one["code"] for one in asked(store)["warnings"]}
    window = a_window("ill", 3, 600.0, 10)
    (meter,) = window.meters
    ill = msgspec.structs.replace(meter, states=("unvalidated",), gaps_ns={"hung": 2 * NS_PER_S})
    window = msgspec.structs.replace(window, meters=(ill,))
    store.write([Accounted(window, window.encode(), account(window, Policy()))], 1)
    answer = asked(store, ("by", "server"), ("boundary", "server"))
    told = {one["code"]: one for one in answer["warnings"] if "worst" in one}
    assert told["unvalidated"]["worst"] == [{"server": "ill", "meter": meter.meter.id, "unvalidated_j": 600.0}]
    assert told["hung"]["hung_s"] == 2.0
    (entry,) = [one for one in answer["ledger"] if one["server"] == "ill"]
    assert (entry["unvalidated_j"], entry["disagreeing_j"], entry["faulty_s"]) == (600.0, 0.0, 2.0)
    assert not [one for one in asked(store, ("server", "a"))["warnings"] if "worst" in one]


@pytest.mark.parametrize("by", ["tenant", "phase"])
def test_warnings_are_the_same_whatever_is_told_apart(tmp_path: Path, a_window: Callable[..., Window], by: str) -> None:
    whole, gap = a_window("a", 0), a_window("a", 1)
    (engine,) = whole.engines
    counts = Counts(requests_ok=4, requests_failed=0, prompt_tokens=70, cached_tokens=0, output_tokens=30)
    work = tuple(Work(key=WorkKey("llama", tenant=name), counts=counts) for name in ("x", "y"))
    engine = msgspec.structs.replace(engine, work=work, restarts=1)
    short = msgspec.structs.replace(engine, covered_ns=engine.covered_ns // 2)
    windows = [msgspec.structs.replace(whole, engines=(engine,)), msgspec.structs.replace(gap, engines=(short,))]
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as store:
        store.write([Accounted(one, one.encode(), account(one, Policy())) for one in windows], 1)
        told = {one["code"]: one for one in asked(store, ("boundary", "server"), ("by", "model"))["warnings"]}
        apart = {one["code"]: one for one in asked(store, ("boundary", "server"), ("by", f"model,{by}"))["warnings"]}
    assert told["unmatched"]["unmetered_requests_ok"] == 8
    assert told["unmatched"]["unpaired_s"] == 60.0
    assert told["engine_restarted"]["restarts"] == 2
    assert apart == told


@pytest.mark.parametrize("boundaries", [(), ("server",), ("fleet",), ("accelerator", "facility"), ("accelerator",)])
def test_a_server_that_no_figure_of_the_fleet_contains_is_named(
    store: EmbeddedStore, a_window: Callable[..., Window], boundaries: tuple[str, ...]
) -> None:
    (meter,) = a_window("boards-only").meters
    board = msgspec.structs.replace(meter, meter=msgspec.structs.replace(meter.meter, kind="accelerator"))
    windows = [msgspec.structs.replace(a_window("boards-only", minute), meters=(board,)) for minute in range(9)]
    store.write([Accounted(one, one.encode(), account(one, Policy())) for one in windows], 1)
    answer = asked(store, *(("boundary", name) for name in boundaries))
    named = [one["servers"] for one in answer["warnings"] if one["code"] == "not_the_whole_server"]
    assert named == ([] if boundaries == ("accelerator",) else [["boards-only"]])
