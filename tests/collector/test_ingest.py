"""From a batch to the store: what is kept, what is named, what is left whole when something fails."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from joulefleet.delivery import Batch, unpack_json
from joulefleet.units import NS_PER_S
from joulefleet.window import Window, decode, decode_json
from joulefleet_collector import ingest as module
from joulefleet_collector import turns
from joulefleet_collector.ingest import KEEP_WINDOWS_NS, Busy, Ingest
from joulefleet_collector.rows import Row
from joulefleet_collector.sorting import EARLY_NS
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import DAY_NS, Accounted, StoreUnavailable

AWindow = Callable[..., Window]
Account = Callable[[Window], list[Row]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore(tmp_path, lambda: "e1")) as opened:
        yield opened


@pytest.fixture
def ingest(store: EmbeddedStore, account: Account, start_ns: int) -> Ingest:
    return Ingest(store, account, lambda: start_ns + NS_PER_S)


def batch(*bodies: bytes, backfill: bool = False) -> Batch:
    return Batch(id=7, backfill=backfill, windows=[msgspec.Raw(body) for body in bodies])


def kept(store: EmbeddedStore) -> list[tuple[str, int]]:
    return [(one.server, one.start_ns) for one in store.windows(None, 0, 40_000 * DAY_NS)]


async def test_a_good_batch_is_kept_when_the_answer_comes(
    ingest: Ingest, store: EmbeddedStore, a_window: AWindow, start_ns: int
) -> None:
    answer = await ingest.take(batch(a_window().encode(), a_window("b").encode()), decode)
    assert (answer.id, answer.status, answer.rejected, answer.store_epoch) == (7, 200, [], "e1")
    assert answer.now_ns == start_ns + NS_PER_S
    assert kept(store) == [("a", start_ns), ("b", start_ns)]


async def test_bad_windows_are_named_by_place_and_do_not_take_the_others_with_them(
    ingest: Ingest, store: EmbeddedStore, a_window: AWindow, start_ns: int
) -> None:
    newer = msgspec.structs.replace(a_window(), schema=99).encode()
    future = a_window(minute=3)
    old = a_window(minute=-8 * 24 * 60)
    bodies = [b"\xc0", newer, future.encode(), a_window().encode(), old.encode(), b"\x81\xa6server\x01"]
    answer = await ingest.take(batch(*bodies), decode)
    assert [(one.index, one.code) for one in answer.rejected] == [
        (0, "malformed"),
        (1, "wrong_schema"),
        (2, "too_early"),
        (4, "too_old"),
        (5, "malformed"),
    ]
    assert answer.rejected[2].start_ns == future.start_ns
    assert "schema 99" in answer.rejected[1].detail
    assert kept(store) == [("a", start_ns)]


async def test_the_same_from_json(ingest: Ingest, store: EmbeddedStore, a_window: AWindow, start_ns: int) -> None:
    good = a_window().encode_json().decode()
    body = f'{{"id": 3, "windows": [{good}, 5, {{"schema": 2}}, {{"server": "x"}}, {good}]}}'
    answer = await ingest.take(unpack_json(body.encode()), decode_json)
    assert [(one.index, one.code) for one in answer.rejected] == [
        (1, "malformed"),
        (2, "wrong_schema"),
        (3, "malformed"),
    ]
    assert kept(store) == [("a", start_ns)]
    assert next(store.windows(None, 0, 40_000 * DAY_NS)) == a_window()


async def test_truncated_windows_are_malformed(ingest: Ingest, store: EmbeddedStore, a_window: AWindow) -> None:
    whole = a_window().encode()
    for cut in range(0, len(whole), 7):
        answer = await ingest.take(batch(whole[:cut]), decode)
        assert [one.code for one in answer.rejected] == ["malformed"]
    assert kept(store) == []


async def test_windows_sent_again_and_twice_are_taken_and_count_once(
    ingest: Ingest, store: EmbeddedStore, a_window: AWindow
) -> None:
    body = a_window().encode()
    for _ in range(2):
        assert (await ingest.take(batch(body, body), decode)).rejected == []
    assert len(kept(store)) == 1


@pytest.mark.parametrize(("backfill", "codes"), [(False, ["too_old"]), (True, [])])
async def test_an_old_window_needs_a_declared_backfill(
    ingest: Ingest, a_window: AWindow, backfill: bool, codes: list[str]
) -> None:
    old = a_window(minute=-30 * 24 * 60).encode()
    answer = await ingest.take(batch(old, backfill=backfill), decode)
    assert [one.code for one in answer.rejected] == codes


async def test_the_edges_of_age_are_exact(
    store: EmbeddedStore, account: Account, a_window: AWindow, start_ns: int
) -> None:
    now = [start_ns + KEEP_WINDOWS_NS]
    ingest = Ingest(store, account, lambda: now[0])
    body = a_window().encode()
    assert (await ingest.take(batch(body), decode)).rejected == []
    now[0] += 1
    assert [one.code for one in (await ingest.take(batch(body), decode)).rejected] == ["too_old"]
    now[0] = start_ns - EARLY_NS
    assert (await ingest.take(batch(body), decode)).rejected == []
    now[0] -= 1
    assert [one.code for one in (await ingest.take(batch(body), decode)).rejected] == ["too_early"]


class Refusing:
    """A fake store that cannot be written now."""

    epoch = "e"
    lines_set_aside = None

    def write(self, accounted: Sequence[Accounted], received_ns: int) -> int:
        raise StoreUnavailable("/data", "no space is left", "free some")


async def test_a_store_that_fails_is_told_and_not_answered_as_kept(
    account: Account, a_window: AWindow, start_ns: int
) -> None:
    ingest = Ingest(Refusing(), account, lambda: start_ns)  # type: ignore[arg-type]  # only write is reached
    with pytest.raises(StoreUnavailable):
        await ingest.take(batch(a_window().encode()), decode)


async def test_a_fault_of_accounting_holds_up_only_its_own_window(
    store: EmbeddedStore, account: Account, a_window: AWindow, start_ns: int, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(window: Window) -> list[Row]:
        if window.server == "odd":
            raise ZeroDivisionError("secret detail")
        return account(window)

    windows = batch(a_window(server="odd").encode(), a_window(server="good").encode())
    answer = await Ingest(store, broken, lambda: start_ns).take(windows, decode)
    (refused,) = answer.rejected
    assert (refused.index, refused.code, refused.start_ns) == (0, "not_accounted", start_ns)
    assert "secret" not in refused.detail
    assert "('odd', 1, 60000000000" in caplog.text
    assert kept(store) == [("good", start_ns)]


async def test_batches_in_hand_are_bounded_and_room_comes_back(
    ingest: Ingest, a_window: AWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 20)
    body = a_window().encode()
    results = await asyncio.gather(*(ingest.take(batch(body), decode) for _ in range(25)), return_exceptions=True)
    assert [isinstance(one, Busy) for one in results] == [False] * 20 + [True] * 5
    assert (await ingest.take(batch(body), decode)).status == 200


async def test_bytes_in_hand_are_bounded_and_room_comes_back(
    ingest: Ingest, a_window: AWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = a_window().encode()
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 2 * len(body))
    results = await asyncio.gather(*(ingest.take(batch(body), decode) for _ in range(3)), return_exceptions=True)
    assert [isinstance(one, Busy) for one in results] == [False, False, True]
    assert (await ingest.take(batch(body), decode)).status == 200


class Watched:
    """A fake store around a real one: counts commits, holds them up and spoils them on demand."""

    lines_set_aside = None

    def __init__(self, store: EmbeddedStore) -> None:
        self.store = store
        self.commits = 0
        self.servers: list[list[str]] = []
        """Of each commit."""
        self.down = False
        self.free = threading.Event()
        self.free.set()

    @property
    def epoch(self) -> str:
        return self.store.epoch

    def write(self, accounted: Sequence[Accounted], received_ns: int) -> int:
        self.free.wait(10)
        if self.down:
            raise StoreUnavailable("/data", "no space is left", "free some")
        if any(one.window.server == "odd" for one in accounted):
            raise ZeroDivisionError
        self.commits += 1
        self.servers.append([one.window.server for one in accounted])
        return self.store.write(accounted, received_ns)


@pytest.fixture
def watched(store: EmbeddedStore) -> Watched:
    return Watched(store)


def into(watched: Watched, account: Account, now_ns: int) -> Ingest:
    return Ingest(watched, account, lambda: now_ns)  # type: ignore[arg-type]  # only write and epoch are reached


async def test_batches_of_many_agents_share_a_commit_and_each_has_its_own_answer(
    watched: Watched, account: Account, a_window: AWindow, start_ns: int
) -> None:
    ingest = into(watched, account, start_ns)
    bodies = [[a_window(f"s{number}").encode(), b"\xc0"][: 1 + number % 2] for number in range(40)]
    answers = await asyncio.gather(*(ingest.take(batch(*several), decode) for several in bodies))
    assert [len(answer.rejected) for answer in answers] == [number % 2 for number in range(40)]
    assert len(kept(watched.store)) == 40
    assert watched.commits <= 2


async def test_a_batch_that_spoils_a_commit_takes_no_other_with_it(
    watched: Watched, account: Account, a_window: AWindow, start_ns: int
) -> None:
    ingest = into(watched, account, start_ns)
    names = ["a", "b", "odd", "c"]
    answers = await asyncio.gather(*(ingest.take(batch(a_window(name).encode()), decode) for name in names))
    assert [[one.code for one in answer.rejected] for answer in answers] == [[], [], ["not_stored"], []]
    assert [name for name, _ in kept(watched.store)] == ["a", "b", "c"]


@pytest.mark.parametrize("guilty", [{0}, {6}, {2, 3}, set(range(7)), {1, 5}])
async def test_windows_that_spoil_a_commit_take_no_others_of_their_batch_with_them(
    watched: Watched, account: Account, a_window: AWindow, start_ns: int, guilty: set[int]
) -> None:
    ingest = into(watched, account, start_ns)
    names = ["odd" if place in guilty else f"s{place}" for place in range(7)]
    bodies = [a_window(name, minute=-place).encode() for place, name in enumerate(names)]
    answer = await ingest.take(batch(*bodies, b"\xc0"), decode)
    told = {one.index: one.code for one in answer.rejected}
    assert told == {**dict.fromkeys(guilty, "not_stored"), 7: "malformed"}
    assert (answer.id, answer.store_epoch) == (batch().id, watched.epoch)
    assert sorted(name for name, _ in kept(watched.store)) == sorted(set(names) - {"odd"})


async def test_a_store_that_goes_down_while_a_batch_is_stored_in_parts_is_told(
    watched: Watched, account: Account, a_window: AWindow, start_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest = into(watched, account, start_ns)
    keep = watched.store.write

    def last(accounted: Sequence[Accounted], received_ns: int) -> int:
        watched.down = True
        return keep(accounted, received_ns)

    monkeypatch.setattr(watched.store, "write", last)
    with pytest.raises(StoreUnavailable):
        await ingest.take(batch(a_window("good").encode(), a_window("odd").encode()), decode)


async def test_a_store_that_is_down_is_told_to_all_and_comes_back_by_itself(
    watched: Watched, account: Account, a_window: AWindow, start_ns: int
) -> None:
    ingest, watched.down = into(watched, account, start_ns), True
    bodies = [a_window(f"s{number}").encode() for number in range(5)]
    results = await asyncio.gather(*(ingest.take(batch(one), decode) for one in bodies), return_exceptions=True)
    assert [type(one) for one in results] == [StoreUnavailable] * 5
    watched.down = False
    assert [(await ingest.take(batch(one), decode)).status for one in bodies] == [200] * 5
    assert len(kept(watched.store)) == 5


class Held(list[msgspec.Raw]):
    """Windows of a batch, of which can be told whether anything still holds them."""


async def test_what_a_store_that_is_down_did_not_take_is_not_held(
    watched: Watched, account: Account, a_window: AWindow, start_ns: int
) -> None:
    ingest, watched.down = into(watched, account, start_ns), True

    async def refused(name: str) -> weakref.ref[Held]:
        windows = Held([msgspec.Raw(a_window(name).encode())])
        with pytest.raises(StoreUnavailable):
            await ingest.take(Batch(id=7, windows=windows), decode)
        return weakref.ref(windows)

    gc.disable()
    try:
        held = await asyncio.gather(refused("a"), refused("b"), refused("c"))
        # The thread lets go of its last work when it is given more.
        watched.down = False
        await ingest.take(batch(a_window("d").encode()), decode)
        assert [one() for one in held] == [None] * 3
    finally:
        gc.enable()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def until_storing(ingest: Ingest) -> None:
    await until(lambda: ingest.is_storing)


async def until_writing(ingest: Ingest) -> None:
    await until(lambda: ingest.meters.writes_s > 0)


async def test_while_a_commit_hangs_new_batches_are_sent_away_and_old_ones_are_kept(
    watched: Watched, account: Account, a_window: AWindow, start_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STILL_S", 0.0)
    monkeypatch.setattr(module, "STALLED_S", 0.0)
    ingest = into(watched, account, start_ns)
    watched.free.clear()
    first = asyncio.create_task(ingest.take(batch(a_window("a").encode()), decode))
    await until_writing(ingest)
    with pytest.raises(StoreUnavailable, match="a commit has taken"):
        await ingest.take(batch(a_window("b").encode()), decode)
    watched.free.set()
    assert (await first).status == 200
    assert (await ingest.take(batch(a_window("b").encode()), decode)).status == 200
    assert [name for name, _ in kept(watched.store)] == ["a", "b"]


async def test_a_store_that_waits_for_accounting_is_not_told_to_be_slow(
    watched: Watched, account: Account, a_window: AWindow, start_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STILL_S", 0.0)
    monkeypatch.setattr(module, "STALLED_S", 0.0)
    accounts, goes_on = threading.Event(), threading.Event()

    def long(window: Window) -> list[Row]:
        accounts.set()
        goes_on.wait(20)
        return account(window)

    ingest = into(watched, long, start_ns)
    first = asyncio.create_task(ingest.take(batch(a_window("a").encode()), decode))
    await until(accounts.is_set)
    second = asyncio.create_task(ingest.take(batch(a_window("b").encode()), decode))
    await until(lambda: ingest.in_hand == 2)
    goes_on.set()
    assert [(await one).status for one in (first, second)] == [200, 200]


async def test_what_is_new_overtakes_a_backlog_and_no_backlog_is_left_behind(
    watched: Watched, account: Account, a_window: AWindow, start_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STILL_S", 0.0)
    monkeypatch.setattr(turns, "MAX_GROUP", 4)
    ingest = into(watched, account, start_ns)
    watched.free.clear()
    sent = [asyncio.create_task(ingest.take(batch(a_window("first").encode()), decode))]
    await until_writing(ingest)
    for name, windows in (("old1", 3), ("old2", 3), ("old3", 3), ("new1", 1), ("new2", 1)):
        bodies = [a_window(name, minute=-place).encode() for place in range(windows)]
        sent.append(asyncio.create_task(ingest.take(batch(*bodies), decode)))
    await until(lambda: ingest.in_hand == len(sent))
    watched.free.set()
    assert [(await one).status for one in sent] == [200] * len(sent)
    assert [sorted(set(servers)) for servers in watched.servers] == [
        ["first"],
        ["new1", "new2", "old1"],
        ["old2", "old3"],
    ]


async def test_a_batch_that_would_wait_longer_than_its_agent_does_is_sent_away_and_a_smaller_one_is_not(
    watched: Watched, account: Account, a_window: AWindow, start_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STILL_S", 0.0)
    monkeypatch.setattr(module, "PATIENCE_S", 1e-9)
    ingest = into(watched, account, start_ns)
    watched.free.clear()
    new, newer = ([a_window(name).encode()] for name in ("new", "newer"))
    backlog = [a_window("old", minute=-place).encode() for place in range(3)]
    sent = [asyncio.create_task(ingest.take(batch(*new), decode))]
    await until_writing(ingest)
    sent.append(asyncio.create_task(ingest.take(batch(*backlog), decode)))
    await until(lambda: ingest.in_hand == 2)
    with pytest.raises(Busy, match="goes before it"):
        await ingest.take(batch(*backlog), decode)
    sent.append(asyncio.create_task(ingest.take(batch(*newer), decode)))
    await until(lambda: ingest.in_hand == 3)
    watched.free.set()
    assert [(await one).status for one in sent] == [200] * 3
    assert (await ingest.take(batch(*backlog), decode)).status == 200


async def test_whoever_goes_away_before_the_answer_hurts_nobody(
    watched: Watched, account: Account, a_window: AWindow, start_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STILL_S", 0.0)
    ingest = into(watched, account, start_ns)
    watched.free.clear()
    gone, stays = (asyncio.create_task(ingest.take(batch(a_window(name).encode()), decode)) for name in "ab")
    await until_storing(ingest)
    gone.cancel()
    watched.free.set()
    assert (await stays).status == 200
    assert gone.cancelled()


async def test_where_the_store_works_elsewhere_requests_are_looked_at_meanwhile(
    watched: Watched, account: Account, a_window: AWindow, start_ns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STILL_S", 20.0)
    ingest = Ingest(watched, account, lambda: start_ns, store_works_elsewhere=True)  # type: ignore[arg-type]  # as `into`
    watched.free.clear()
    first = asyncio.create_task(ingest.take(batch(a_window("a").encode()), decode))
    await until_storing(ingest)
    assert watched.commits == 0, "the loop stood still until the store was done"
    watched.free.set()
    assert (await first).status == 200
    assert [name for name, _ in kept(watched.store)] == ["a"]
