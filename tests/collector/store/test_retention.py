"""What is removed, when, and that no sum of hours or days ever moves by it."""

import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joulefleet.grid import HOUR_NS
from joulefleet.window import Window
from joulefleet_collector.rows import Row
from joulefleet_collector.store import retention, schema
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.retention import Keep
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS, Accounted, NotKept, Question, Step

AWindow = Callable[..., Window]
Account = Callable[[Window], list[Row]]
Put = Callable[..., int]
EVER = {"since_ns": 0, "until_ns": 40_000 * DAY_NS}
KEEP = Keep(windows_ns=2 * DAY_NS, minutes_ns=3 * DAY_NS)
DAY = 24 * 60
"""Minutes."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        yield opened


@pytest.fixture
def put(account: Account) -> Put:
    """Write windows as received when each of them ended, or all at `received_ns`."""

    def write(store: EmbeddedStore, *windows: Window, received_ns: int | None = None) -> int:
        received: dict[int, list[Accounted]] = {}
        for one in windows:
            at_ns = one.end_ns if received_ns is None else received_ns
            received.setdefault(at_ns, []).append(Accounted(one, one.encode(), account(one)))
        return sum(store.write(several, at_ns) for at_ns, several in received.items())

    return write


def sums(store: EmbeddedStore, step: Step = "none", since_ns: int = 0) -> dict[tuple[object, ...], float]:
    asked = Question(kind="usage", step=step, by=("server",), fields=("active_j",), **{**EVER, "since_ns": since_ns})
    return {(one.start_ns, *one.tags.values()): one.fields["active_j"] for one in store.ask(asked)}


def kept(store: EmbeddedStore, start_ns: int) -> list[int]:
    """Minutes after `start_ns` at which the kept windows start."""
    return [(one.start_ns - start_ns) // MINUTE_NS for one in store.windows(None, **EVER)]


def prune_all(store: EmbeddedStore, now_ns: int, keep: Keep = KEEP) -> int:
    windows = 0
    while True:
        part = store.prune(keep, now_ns)
        windows += part.windows
        if not part.more:
            return windows


def test_windows_older_than_is_kept_go_and_their_sums_stay(
    store: EmbeddedStore, put: Put, a_window: AWindow, start_ns: int
) -> None:
    put(store, *(a_window("a", day * DAY, 10.0) for day in range(5)))
    before = sums(store, "hour")
    assert store.prune(KEEP, start_ns + 4 * DAY_NS).windows == 2
    assert kept(store, start_ns) == [2 * DAY, 3 * DAY, 4 * DAY] and sums(store, "hour") == before
    assert store.prune(KEEP, start_ns + 4 * DAY_NS) == retention.Pruned(0, 0, 0, False)


def test_a_window_that_is_sent_again_after_its_record_went_is_not_counted_twice(
    store: EmbeddedStore, put: Put, a_window: AWindow, start_ns: int
) -> None:
    windows = [a_window("a", day * DAY, 10.0) for day in range(5)]
    put(store, *windows)
    prune_all(store, start_ns + 4 * DAY_NS)
    assert put(store, *windows) == 0
    assert put(store, a_window("a", DAY, 10.0, timeline=2), a_window("a", DAY + 1, 10.0)) == 2
    assert sums(store) == {(None, "a"): 70.0}


def test_a_backfill_is_kept_as_long_after_its_receipt_as_others(
    store: EmbeddedStore, put: Put, a_window: AWindow, start_ns: int
) -> None:
    put(store, a_window("old", -300 * DAY), received_ns=start_ns + 3 * DAY_NS)
    put(store, a_window("a", 4 * DAY))
    assert prune_all(store, start_ns + 4 * DAY_NS) == 0
    put(store, a_window("a", 6 * DAY))
    assert prune_all(store, start_ns + 6 * DAY_NS) == 1
    assert put(store, a_window("old", -300 * DAY)) == 0
    assert sums(store)[(None, "old")] == 600.0


def test_a_clock_that_runs_ahead_empties_nothing(
    store: EmbeddedStore, put: Put, a_window: AWindow, start_ns: int
) -> None:
    put(store, *(a_window("a", day * DAY) for day in range(3)))
    assert prune_all(store, start_ns + 4000 * DAY_NS) == 0
    assert len(sums(store, "minute")) == 3


def test_one_call_removes_a_bounded_part_and_says_that_there_is_more(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, put: Put, a_window: AWindow, start_ns: int
) -> None:
    monkeypatch.setattr(retention, "WINDOWS_AT_ONCE", 10)
    put(store, *(a_window("a", minute) for minute in range(25)), a_window("a", 3 * DAY))
    parts = [store.prune(KEEP, start_ns + 3 * DAY_NS) for _ in range(3)]
    assert [(part.windows, part.more) for part in parts] == [(10, True), (10, True), (5, False)]


def test_minutes_go_and_hours_and_days_stay(
    store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, put: Put, a_window: AWindow, start_ns: int
) -> None:
    put(store, a_window("a", 61), a_window("a", 5 * DAY))
    store.settle()
    hours, days = sums(store, "hour"), sums(store, "day")
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 3)
    parts = [store.prune(KEEP, start_ns + 5 * DAY_NS) for _ in range(2)]
    assert [(part.minute_rows, part.more) for part in parts] == [(3, True), (1, False)]  # four kinds of rows
    assert (sums(store, "hour"), sums(store, "day")) == (hours, days)


def test_a_question_that_needs_minutes_that_are_gone_is_refused(
    store: EmbeddedStore, put: Put, a_window: AWindow, start_ns: int
) -> None:
    put(store, a_window("a", 61), a_window("a", 5 * DAY))
    assert len(sums(store, "minute")) == 2
    prune_all(store, start_ns + 5 * DAY_NS)
    from_ns = start_ns + 2 * DAY_NS
    with pytest.raises(NotKept, match=r"kept from 2026-\d\d-\d\dT00:00:00Z on; before it, ask for whole hours") as told:
        sums(store, "minute")
    assert told.value.from_ns == from_ns
    with pytest.raises(NotKept):
        sums(store, since_ns=start_ns + 61 * MINUTE_NS)
    assert sums(store, "minute", since_ns=from_ns) == {(start_ns + 5 * DAY_NS, "a"): 600.0}
    assert sums(store, since_ns=start_ns + HOUR_NS) == {(None, "a"): 1200.0}


def test_recount_leaves_days_alone_of_which_a_window_is_gone(
    store: EmbeddedStore, put: Put, a_window: AWindow, account: Account, start_ns: int
) -> None:
    put(store, *(a_window("a", day * DAY + hour * 60, 10.0) for day in range(4) for hour in range(24)))
    prune_all(store, start_ns + 3 * DAY_NS + 23 * HOUR_NS)
    assert kept(store, start_ns)[0] == DAY + 23 * 60  # one window of the second day is left

    def doubled(window: Window) -> list[Row]:
        return [msgspec.structs.replace(row, fields=_doubled(row.fields)) for row in account(window)]

    told: list[tuple[int, int]] = []
    store.recount(doubled, lambda done, total: told.append((done, total)))
    assert store.settled_days() == [start_ns, start_ns + DAY_NS]
    assert told[-1] == (48, 48)
    assert list(sums(store, "day").values()) == [240.0, 240.0, 480.0, 480.0]
    assert sum(sums(store, "hour").values()) == 1440.0
    assert put(store, a_window("a", 0, 10.0), a_window("a", 3 * DAY, 10.0)) == 0


def _doubled(fields: dict[str, float]) -> dict[str, float]:
    return {name: value * 2 if name == "active_j" else value for name, value in fields.items()}


def test_space_of_what_was_removed_goes_back_to_the_disk(
    store: EmbeddedStore, put: Put, a_window: AWindow, start_ns: int
) -> None:
    facts = {f"fact{number}": f"{number}" * 200 for number in range(40)}
    put(store, *(a_window(f"s{number}", 0, facts=facts | {"n": str(number) * 50}) for number in range(1500)))
    put(store, a_window("a", 5 * DAY))
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    before = store.path.stat().st_size
    parts = [store.prune(KEEP, start_ns + 5 * DAY_NS)]
    while parts[-1].more:
        parts.append(store.prune(KEEP, start_ns + 5 * DAY_NS))
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert store.path.stat().st_size < 0.7 * before
    assert sum(part.given_back_bytes for part in parts) >= before - store.path.stat().st_size
    free, pages = (store._writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count"))
    assert free < 0.2 * pages


def test_the_file_stops_growing_once_it_holds_what_is_kept(
    store: EmbeddedStore, put: Put, a_window: AWindow, start_ns: int
) -> None:
    noise = random.Random(3)
    sizes = []
    for day in range(12):
        windows = [
            a_window(name, day * DAY + minute, facts={"noise": noise.randbytes(120).hex()})
            for minute in range(60)
            for name in "abcde"
        ]
        put(store, *windows, received_ns=start_ns + day * DAY_NS + HOUR_NS)
        prune_all(store, start_ns + day * DAY_NS + HOUR_NS)
        sizes.append(store._writer.execute("PRAGMA page_count").fetchone()[0])
    assert sizes[3] > 1.5 * sizes[1]
    assert max(sizes[6:]) < 1.15 * sizes[5]


POOL = [
    (name, minute, timeline)
    for minute in [*range(4), *range(300, 8 * DAY, 571)]
    for name in "ab"
    for timeline in (1, 2)
]
SEVERAL = st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=60)
MINUTES = st.integers(0, 9 * DAY)
NONE: st.SearchStrategy[list[int]] = st.just([])
STEPS = st.one_of(
    st.tuples(st.just("write"), SEVERAL, MINUTES),
    st.tuples(st.just("prune"), NONE, MINUTES),
    st.tuples(st.just("recount"), NONE, MINUTES),
    st.tuples(st.just("open again"), NONE, MINUTES),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=14))
def test_sums_are_those_of_the_windows_after_any_order_of_writes_duplicates_and_prunes(
    steps: list[tuple[str, list[int], int]], put: Put, a_window: AWindow, account: Account, start_ns: int
) -> None:
    """The clock jumps to and fro, parts are small, and every window may come again at any time."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as small:
        small.setattr(retention, "WINDOWS_AT_ONCE", 17)
        small.setattr(retention, "ROWS_AT_ONCE", 40)
        store = EmbeddedStore(Path(folder), lambda: "e")
        written: dict[object, Window] = {}
        for what, chosen, minute in steps:
            now_ns = start_ns + minute * MINUTE_NS
            if what == "write":
                windows = [_pooled(a_window, number) for number in chosen]
                new = {one.key: one for one in windows if one.key not in written}
                assert put(store, *windows, received_ns=now_ns) == len(new)
                written |= new
            elif what == "prune":
                store.prune(KEEP, now_ns)
            elif what == "recount":
                store.recount(account, lambda done, total: None)
            else:
                store.close()
                store = EmbeddedStore(Path(folder), lambda: "e")
        try:
            _check(store, list(written.values()))
        finally:
            store.close()


def _pooled(a_window: AWindow, number: int) -> Window:
    name, minute, timeline = POOL[number]
    return a_window(name, minute, float(number + 1), timeline=timeline)


def _check(store: EmbeddedStore, written: Sequence[Window]) -> None:
    expected: dict[Step, dict[tuple[int | None, str], float]] = {"none": {}, "minute": {}, "hour": {}, "day": {}}
    for step, length_ns in (("none", 0), ("minute", MINUTE_NS), ("hour", HOUR_NS), ("day", DAY_NS)):
        for one in written:
            at = one.start_ns - one.start_ns % length_ns if length_ns else None
            key = (at, one.server)
            expected[step][key] = expected[step].get(key, 0.0) + one.meters[0].energy_uj / 1e6
    for step in ("none", "hour", "day"):
        assert sums(store, step) == pytest.approx(expected[step])
    since_ns = _minutes_from(store)
    later = {key: value for key, value in expected["minute"].items() if key[0] is not None and key[0] >= since_ns}
    assert sums(store, "minute", since_ns) == pytest.approx(later)


def _minutes_from(store: EmbeddedStore) -> int:
    try:
        sums(store, "minute")
    except NotKept as gone:
        return gone.from_ns
    return 0


def test_compacting_changes_nothing_but_the_size_and_a_collector_beside_it_goes_on(
    store: EmbeddedStore, put: Put, a_window: AWindow, tmp_path: Path
) -> None:
    put(store, *(a_window(f"s{number}", number) for number in range(300)), a_window("a", 5 * DAY))
    before = sums(store, "hour")
    with closing(EmbeddedStore(tmp_path, lambda: "never")) as beside:
        prune_all(beside, 2**62)
        beside.compact()
        assert beside._writer.execute("PRAGMA freelist_count").fetchone() == (0,)
    assert {one.name for one in tmp_path.iterdir()} <= {store.path.name + end for end in ("", "-wal", "-shm")}
    assert sums(store, "hour") == before
    assert put(store, a_window("s1", 1), a_window("b", 5 * DAY, 1.0)) == 1
    assert sums(store)[None, "b"] == 1.0


def test_compacting_a_file_of_before_lets_it_give_space_back(tmp_path: Path) -> None:
    path = tmp_path / "it's" / "joulefleet.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        schema.prepare(old, "here", "e")
        assert old.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    with closing(EmbeddedStore(path.parent, lambda: "never")) as store:
        store.compact()
        assert (store.epoch, store._writer.execute("PRAGMA auto_vacuum").fetchone()) == ("e", (2,))
