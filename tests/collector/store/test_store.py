"""What holds for every store: the conformance suite."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joulefleet.units import NS_PER_S
from joulefleet.window import Losses, Window
from joulefleet_collector.agents import end_ns, newest
from joulefleet_collector.rows import KINDS, Row
from joulefleet_collector.store.store import (
    DAY_NS,
    MINUTE_NS,
    STEP_NS,
    Accounted,
    Course,
    Question,
    Store,
    StoreUnavailable,
)

Put = Callable[..., int]
AWindow = Callable[..., Window]
EVER = {"since_ns": 0, "until_ns": 40_000 * DAY_NS}


def sums(store: Store, kind: str = "usage", field: str = "active_j", **asked: object) -> dict[tuple[str, ...], float]:
    question = Question(kind=kind, fields=(field,), **{**EVER, **asked})
    return {tuple(total.tags.values()): total.fields[field] for total in store.ask(question)}


def test_sums_of_windows_add_up_over_time_and_servers(store: Store, put: Put, a_window: AWindow) -> None:
    put(store, a_window("a", 0, 600.0), a_window("a", 1, 300.0), a_window("b", 0, 50.0))
    assert sums(store) == {(): 950.0}
    assert sums(store, by=("server",)) == {("a",): 900.0, ("b",): 50.0}
    assert sums(store, by=("model", "server"))[("llama", "a")] == 900.0


def test_a_window_sent_again_changes_nothing(store: Store, put: Put, a_window: AWindow) -> None:
    assert put(store, a_window()) == 1
    before = {kind: store.ask(Question(kind=kind, **EVER)) for kind in KINDS}
    put(store, a_window(), a_window())
    assert {kind: store.ask(Question(kind=kind, **EVER)) for kind in KINDS} == before


def test_one_batch_may_hold_a_window_twice(store: Store, put: Put, a_window: AWindow) -> None:
    put(store, a_window(), a_window())
    assert sums(store) == {(): 600.0}


def test_a_store_of_windows_keeps_each_once_and_says_how_many_were_new(
    keeping: Store, put: Put, a_window: AWindow
) -> None:
    assert put(keeping, a_window(), a_window()) == 1
    assert put(keeping, a_window(), a_window(minute=1)) == 1
    assert len(list(keeping.windows(None, **EVER))) == 2


def test_the_same_rows_in_any_order_twice_late_and_at_once_give_the_same_answers(
    store: Store, put: Put, a_window: AWindow, account: Callable[[Window], list[Row]]
) -> None:
    """Compared with the rows themselves, added up by hand; several threads send them in an order by chance."""
    rng = random.Random(5)
    windows = [a_window(name, minute, rng.random() * 1e3) for name, minute in product("abc", range(0, 3000, 61))]
    shuffled = [rng.sample(windows, len(windows)) for _ in range(3)]
    batches = [several[first : first + 10] for several in shuffled for first in range(0, len(several), 10)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda batch: put(store, *batch), batches))
    for kind, field, by in [
        ("usage", "active_j", "model"),
        ("ledger", "metered_j", "server"),
        ("agent", "windows", ""),
    ]:
        expected: dict[tuple[int, str], float] = {}
        for row in (row for one in windows for row in account(one) if row.kind == kind):
            key = (row.start_ns - row.start_ns % STEP_NS["hour"], row.tags.get(by, ""))
            expected[key] = expected.get(key, 0.0) + row.fields[field]
        asked = Question(kind=kind, step="hour", by=(by,) if by else (), fields=(field,), **EVER)
        found = {(one.start_ns, one.tags.get(by, "")): one.fields[field] for one in store.ask(asked)}
        assert found == pytest.approx(expected, rel=1e-9)


def test_windows_of_other_timelines_and_steps_are_other_windows(store: Store, put: Put, a_window: AWindow) -> None:
    assert put(store, a_window(), a_window(timeline=2), a_window(step_ns=10 * NS_PER_S)) == 3
    assert sums(store) == {(): 1800.0}


def test_unknown_plus_known_is_known_and_unknown_alone_is_missing(
    store: Store, start_ns: int, a_window: AWindow
) -> None:
    tags = {"server": "a", "boundary": "server"}
    rows = [
        Row("usage", start_ns, tags, {"active_j": 1.0}),
        Row("usage", start_ns, tags, {"requests_ok": 4, "idle_j": 0.0}),
    ]
    window = a_window()
    store.write([Accounted(window, window.encode(), rows)], 1)
    later = a_window(minute=1)
    store.write([Accounted(later, later.encode(), [Row("usage", later.start_ns, tags, {"active_j": 2.0})])], 1)
    (total,) = store.ask(Question(kind="usage", **EVER))
    assert total.fields == {"active_j": 3.0, "requests_ok": 4.0, "idle_j": 0.0}


def test_filters_keep_rows_whose_tag_is_one_of_the_values(store: Store, put: Put, a_window: AWindow) -> None:
    put(store, a_window("a", joules=1.0), a_window("b", joules=2.0), a_window("c", joules=4.0, labels={}))
    assert sums(store, where={"server": ("a", "c")}) == {(): 5.0}
    assert sums(store, where={"rack": ("r1",), "server": ("b", "c")}) == {(): 2.0}
    assert sums(store, where={"rack": ("",)}, by=("rack",)) == {("",): 4.0}
    assert sums(store, where={"server": ("d",)}) == {}


def test_a_question_about_no_time_has_no_answer(store: Store, put: Put, a_window: AWindow, start_ns: int) -> None:
    put(store, a_window())
    assert sums(store, since_ns=start_ns, until_ns=start_ns) == {}


def test_instants_must_be_whole_minutes(store: Store, start_ns: int) -> None:
    with pytest.raises(ValueError, match="whole minutes"):
        store.ask(Question(kind="usage", since_ns=start_ns + 1, until_ns=start_ns + DAY_NS))


def test_a_field_that_is_no_sum_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="no sums of 'usage'"):
        store.ask(Question(kind="usage", fields=("rss_bytes",), **EVER))


def test_a_row_with_a_field_of_no_kind_is_refused_whole(store: Store, put: Put, a_window: AWindow) -> None:
    window = a_window()
    with pytest.raises(ValueError, match="joule"):
        store.write([Accounted(window, window.encode(), [Row("usage", window.start_ns, {}, {"joule": 1.0})])], 1)
    assert put(store, window) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_question_equals_adding_the_windows_by_hand(
    store: Store, put: Put, a_window: AWindow, start_ns: int, data: st.DataObject
) -> None:
    """Ragged edges over minutes, hours and days, with and without the server, read from whichever grain fits."""
    rng = random.Random(1)
    windows = [a_window(name, minute, rng.random() * 1e3) for name, minute in product("ab", range(1, 4000, 37))]
    put(store, *windows)  # changes nothing after the first example
    first, last = sorted(data.draw(st.tuples(st.integers(0, 4100), st.integers(0, 4100))))
    step = data.draw(st.sampled_from(sorted(STEP_NS)))
    by = data.draw(st.sampled_from([(), ("server",), ("rack",)]))
    since_ns, until_ns = start_ns + first * MINUTE_NS, start_ns + last * MINUTE_NS
    expected: dict[tuple[object, ...], float] = {}
    for one in windows:
        if since_ns <= one.start_ns < until_ns:
            length_ns = STEP_NS[step]
            at = one.start_ns - one.start_ns % length_ns if length_ns else None
            key = (at, *({"server": one.server, "rack": "r1"}[tag] for tag in by))
            expected[key] = expected.get(key, 0.0) + one.meters[0].energy_uj / 1e6
    asked = Question(kind="usage", since_ns=since_ns, until_ns=until_ns, step=step, by=by, fields=("active_j",))
    found = {(one.start_ns, *one.tags.values()): one.fields["active_j"] for one in store.ask(asked)}
    assert found == pytest.approx(expected, rel=1e-9)


def test_windows_come_back_as_they_were_in_order_of_start(keeping: Store, put: Put, a_window: AWindow) -> None:
    sent = [a_window(name, minute) for minute in range(150) for name in "ab"]
    shuffled = random.Random(2).sample(sent, len(sent))
    put(keeping, *shuffled)
    back = list(keeping.windows(None, **EVER))
    assert [one.start_ns for one in back] == [one.start_ns for one in sent]
    assert {one.key: one.encode() for one in back} == {one.key: one.encode() for one in sent}
    assert {one.server for one in keeping.windows("b", **EVER)} == {"b"}
    assert [one.key for one in keeping.windows("a", sent[2].start_ns, sent[4].start_ns)] == [sent[2].key]


def test_latest_keeps_the_newest_whatever_the_order_of_arrival(store: Store, put: Put, a_window: AWindow) -> None:
    put(store, a_window(minute=5, losses=Losses(windows=3)))
    put(store, a_window(minute=2, losses=Losses(windows=1)), a_window("b", losses=Losses(windows=9)))
    newest = {row.tags["server"]: row.fields["lost_windows"] for row in store.latest("agent")}
    assert newest == {"a": 3, "b": 9}


def test_servers_are_heard_at_the_time_of_their_newest_window(store: Store, a_window: AWindow) -> None:
    def agent(window: Window, **told: float) -> Accounted:
        tags = {"server": window.server, "timeline": f"{window.timeline:08x}", "step_s": "60"}
        row = Row("agent", window.start_ns, tags, {"windows": 1.0, "window_s": 60.0, **told})
        return Accounted(window, window.encode(), [row])

    sent = [a_window("a", 5), a_window("a", 9, timeline=2), a_window("a", 7, timeline=2), a_window("b", 1)]
    store.write([agent(one, spool_windows=float(number)) for number, one in enumerate(sent)], 1)
    found = newest(store.heard())
    assert {server: end_ns(row) for server, row in found.items()} == {"a": sent[1].end_ns, "b": sent[3].end_ns}
    assert {server: row.fields["spool_windows"] for server, row in found.items()} == {"a": 1.0, "b": 3.0}


def test_the_agent_keeps_its_timeline_and_other_rows_do_not(store: Store, put: Put, a_window: AWindow) -> None:
    put(store, a_window(timeline=1), a_window(timeline=2))
    assert [row.tags["timeline"] for row in store.latest("agent")] == ["00000001", "00000002"]
    assert "timeline" in store.tags("agent")
    assert store.tags("usage").isdisjoint({"timeline", "step_s"})
    assert {"rack", "model", "server"} <= store.tags("usage")


def test_recount_restates_the_past_under_another_policy(
    keeping: Store, put: Put, a_window: AWindow, account: Callable[[Window], list[Row]]
) -> None:
    put(keeping, *(a_window("a", minute, 10.0) for minute in range(450)))
    seen: list[tuple[int, int]] = []

    def halved(window: Window) -> list[Row]:
        return [msgspec.structs.replace(row, fields=_halved(row.fields)) for row in account(window)]

    keeping.recount(halved, lambda done, total: seen.append((done, total)))
    assert sums(keeping) == {(): 2250.0}
    assert sums(keeping, by=("server",)) == {("a",): 2250.0}
    assert seen[-1] == (450, 450) and len(seen) > 1
    assert put(keeping, a_window("a", 0, 10.0)) == 0


def _halved(fields: dict[str, float]) -> dict[str, float]:
    return {name: value / 2 if name == "active_j" else value for name, value in fields.items()}


def test_recount_under_the_same_policy_changes_nothing(
    keeping: Store, put: Put, a_window: AWindow, account: Callable[[Window], list[Row]]
) -> None:
    put(keeping, *(a_window(name, minute, 0.1 * minute) for name in "ab" for minute in range(0, 3000, 250)))
    before = {kind: keeping.ask(Question(kind=kind, step="hour", by=("server",), **EVER)) for kind in KINDS}
    keeping.recount(account, lambda done, total: None)
    for kind, totals in before.items():
        again = keeping.ask(Question(kind=kind, step="hour", by=("server",), **EVER))
        assert [one.fields for one in again] == [pytest.approx(one.fields, rel=1e-9) for one in totals]


def test_a_recount_that_fails_leaves_the_sums_as_they_were(keeping: Store, put: Put, a_window: AWindow) -> None:
    put(keeping, a_window())

    def broken(window: Window) -> list[Row]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        keeping.recount(broken, lambda done, total: None)
    assert sums(keeping) == {(): 600.0}


def test_retired_servers_are_kept_until_they_are_taken_back(store: Store) -> None:
    assert store.retired() == {}
    store.retire({"a": 5, "b": 0, "c\n\u00e4": 7})
    store.retire({"a": 6, "b": None, "nobody": None})
    assert store.retired() == {"a": 6, "c\n\u00e4": 7}


def test_overlapping_timelines_of_one_name_are_found(store: Store, put: Put, a_window: AWindow, start_ns: int) -> None:
    put(store, *(a_window("a", minute, timeline=7) for minute in range(10)))
    put(store, *(a_window("a", minute, timeline=9) for minute in range(8, 12)))
    (overlap,) = store.timelines(**EVER)
    assert (overlap.server, overlap.timelines) == ("a", (7, 9))
    assert (overlap.from_ns, overlap.to_ns) == (start_ns + 8 * MINUTE_NS, start_ns + 10 * MINUTE_NS)
    assert store.timelines(start_ns, start_ns + 8 * MINUTE_NS) == []


def test_an_overlap_is_found_from_either_side_and_over_unlike_steps(store: Store, put: Put, a_window: AWindow) -> None:
    put(store, a_window("a", 0, timeline=9, step_ns=3600 * NS_PER_S), a_window("a", 30, timeline=7))
    put(store, a_window("b", 0, timeline=7, step_ns=3600 * NS_PER_S), a_window("b", 30, timeline=9))
    assert [one.server for one in store.timelines(**EVER)] == ["a", "b"]


def test_a_new_timeline_after_the_old_is_no_overlap(store: Store, put: Put, a_window: AWindow) -> None:
    put(store, a_window("a", 0, timeline=7), a_window("a", 2, timeline=7), a_window("a", 3, timeline=9))
    put(store, a_window("a", 1, timeline=8), a_window("b", 0, timeline=9))
    assert store.timelines(**EVER) == []


def test_timelines_are_told_from_their_first_to_their_last_window(
    store: Store, put: Put, a_window: AWindow, start_ns: int
) -> None:
    put(store, a_window("a", 2, timeline=7), a_window("a", 0, timeline=7), a_window("a", 20, timeline=9))
    put(store, a_window("a", 30, timeline=9, step_ns=600 * NS_PER_S), a_window("b", 5, timeline=7))
    expected = [("a", 7, 0, 3), ("a", 9, 20, 40), ("b", 7, 5, 6)]
    assert store.courses(**EVER) == [
        Course(server, timeline, start_ns + first * MINUTE_NS, start_ns + end * MINUTE_NS)
        for server, timeline, first, end in expected
    ]
    assert [one.server for one in store.courses(start_ns + 4 * MINUTE_NS, start_ns + 10 * MINUTE_NS)] == ["b"]


def test_the_epoch_is_the_one_it_was_made_with(store: Store) -> None:
    assert store.epoch == "epoch-1"


def test_check_passes_where_writing_works(store: Store, put: Put, a_window: AWindow) -> None:
    store.check()
    assert put(store, a_window()) == 1


def test_what_is_wrong_with_a_store_says_where_why_and_the_mend() -> None:
    assert str(StoreUnavailable("/x", "it is full", "free space")) == "/x: it is full; free space"
