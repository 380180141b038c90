"""Taking windows in: batches of many agents are kept in one commit, and each is answered after it.

While one group of batches is stored the next one gathers. The pause between two follows the time that the last one
took, up to GROUP_S, so that a busy collector commits seldom and a quiet one at once; a full group does not wait. Whose
turn it is `turns` decides.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import msgspec

from joulefleet.delivery import Answer, Batch, Rejected
from joulefleet_collector.metrics import Meters
from joulefleet_collector.sorting import Arrived, Decode, Sorter
from joulefleet_collector.store.store import DAY_NS, Account, Store, StoreUnavailable
from joulefleet_collector.turns import Pace, ahead, next_group

LOG = logging.getLogger(__name__)
KEEP_WINDOWS_NS = 7 * DAY_NS
GROUP_S = 0.2
PAUSE = 3
"""Pause between two groups by the time that the last one took."""
GATHER_S = 0.01
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Batches in hand at once; more are told to wait, so that memory stays bounded."""
PATIENCE_S = 15.0
"""A batch that would wait longer is sent away: half of what an agent waits before it sends again what is in hand."""
STILL_S = 0.25
"""How long no request is looked at while a group is stored."""
STALLED_S = 10.0
"""Once the store has written for so long it is too slow, and no more batches are taken in hand."""


class Busy(Exception):
    """More waits than the collector holds at once, or stores while an agent waits."""


class _Waiting(msgspec.Struct, frozen=True, eq=False):
    """A batch in hand, its windows and bytes, and who waits for the answer."""

    arrived: Arrived
    windows: int
    size: int
    answer: asyncio.Future[Answer]


Outcome = Answer | Exception


class Ingest:
    """The way from a batch to the store. One group is stored at a time."""

    def __init__(  # noqa: PLR0913 # the parts of one way
        self,
        store: Store,
        account: Account,
        now_ns: Callable[[], int],
        keep_windows_ns: int = KEEP_WINDOWS_NS,
        *,
        store_works_elsewhere: bool = False,
        meters: Meters | None = None,
    ) -> None:
        """`store_works_elsewhere`: a write waits for another process, and requests are looked at meanwhile."""
        self.meters = meters or Meters()
        """What is counted on the way."""
        self._store = store
        self._store_works_elsewhere = store_works_elsewhere
        self._sorter = Sorter(account, keep_windows_ns)
        self._now_ns = now_ns
        self._waiting: list[_Waiting] = []
        self._pace = Pace()
        self._in_hand = 0
        self._in_hand_bytes = 0
        self._in_hand_windows = 0
        self._is_storing = False
        self._storing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "store")
        self._thread_is_idle = Event()

    async def take(self, batch: Batch, decode: Decode) -> Answer:
        """Keep the good windows of a batch, durably when this returns, and name the others.

        Raises Busy, or StoreUnavailable; then nothing of the batch was stored.
        """
        loop = asyncio.get_running_loop()
        windows = len(batch.windows)
        self._check_room(windows)
        size = sum(memoryview(window).nbytes for window in batch.windows)
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append(_Waiting(Arrived(batch, decode, self._now_ns()), windows, size, answer))
        self._hold(1, size, windows)
        if self._storing is None or self._storing.done():
            self._storing = loop.create_task(self._store_groups())
        try:
            return await answer
        finally:
            del answer  # a failure in it holds this frame, and would so hold itself

    @property
    def is_storing(self) -> bool:
        """Whether a group is on its way into the store now."""
        return self._is_storing

    @property
    def in_hand(self) -> int:
        """Batches that are not answered yet."""
        return self._in_hand

    def _hold(self, batches: int, size: int, windows: int) -> None:
        self._in_hand += batches
        self._in_hand_bytes += size
        self._in_hand_windows += windows
        self.meters.waiting(self._in_hand, self._in_hand_bytes)

    def _check_room(self, windows: int) -> None:
        if self._in_hand >= MAX_WAITING or self._in_hand_bytes >= MAX_WAITING_BYTES:
            raise Busy(f"{self._in_hand} batches of {self._in_hand_bytes} bytes are in hand; send this one again later")
        if (writes_s := self.meters.writes_s) > STALLED_S:
            reason = f"a commit has taken {writes_s:.0f} s so far"
            raise StoreUnavailable("the store", reason, "see to its disk; agents send again by themselves")
        if self._pace.time_s(self._in_hand_windows) > PATIENCE_S:
            wait_s = self._pace.time_s(ahead(self._waiting, windows))
            if wait_s > PATIENCE_S:
                raise Busy(f"what goes before it takes {wait_s:.0f} s to account; send this one again later")

    async def _store_groups(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = next_group(self._waiting, self._pace.room)
            began_s, self._is_storing = loop.time(), True
            self._thread_is_idle.clear()
            storing = self._thread.submit(self._store_group, [one.arrived for one in group])
            storing.add_done_callback(lambda _: self._thread_is_idle.set())
            # Two threads that take turns at every row cost half as much again as one after the other. So this one
            # stands still meanwhile, and goes on only where the store is slow or works elsewhere.
            self._thread_is_idle.wait(STILL_S)
            outcomes = await asyncio.wrap_future(storing)
            self._is_storing = False
            for one, outcome in zip(group, outcomes, strict=True):
                self._give(one, outcome)
            await self._gather(until_s=loop.time() + min(GROUP_S, PAUSE * (loop.time() - began_s)))

    async def _gather(self, until_s: float) -> None:
        """Wait until then or for a full group; a little in any case, so that what is new may come before what waits."""
        loop = asyncio.get_running_loop()
        while (left_s := until_s - loop.time()) > 0:
            await asyncio.sleep(min(GATHER_S, left_s))
            if self._in_hand_windows >= self._pace.room:
                return

    def _give(self, one: _Waiting, outcome: Outcome) -> None:
        self._hold(-1, -one.size, -one.windows)
        if one.answer.done():
            return
        if isinstance(outcome, Exception):
            one.answer.set_exception(outcome)
        else:
            one.answer.set_result(outcome)

    def _store_group(self, arrived: Sequence[Arrived]) -> list[Outcome]:
        """What becomes of each batch; called in a worker thread. One that spoils the commit is alone in it."""
        try:
            return [*self._stored(arrived)]
        except StoreUnavailable as error:
            # One each, and without the frames in which it arose: they hold what was to be stored.
            return [StoreUnavailable(*error.args) for _ in arrived]
        except Exception:  # a fault of ours: its window is found, named and refused for now
            if len(arrived) == 1:
                return [self._in_parts(arrived[0])]
            return [outcome for one in arrived for outcome in self._store_group([one])]

    def _in_parts(self, came: Arrived) -> Outcome:
        """Store a batch that spoils its commit, halved until the guilty windows stand alone."""
        try:
            rejected = self._rejected(came, 0)
        except StoreUnavailable as error:
            return StoreUnavailable(*error.args)
        return Answer(id=came.batch.id, rejected=rejected, store_epoch=self._store.epoch, now_ns=came.now_ns)

    def _rejected(self, came: Arrived, first: int) -> list[Rejected]:
        """Store what can be stored of these windows; `first` is the place of the first one in its batch."""
        try:
            (answer,) = self._stored([came])
        except StoreUnavailable:
            raise
        except Exception as error:
            windows = came.batch.windows
            if len(windows) > 1:
                half = len(windows) // 2
                parts = (_part(came, windows[:half]), first), (_part(came, windows[half:]), first + half)
                return [one for part in parts for one in self._rejected(*part)]
            # As one that cannot be accounted: it waits with its agent until a better version takes it.
            LOG.exception("a window cannot be stored")
            detail = f"{type(error).__name__} while storing it; the collector's log tells more"
            refused = Rejected(index=first, code="not_stored", detail=detail)
            self.meters.refuse([refused])
            return [refused]
        return [msgspec.structs.replace(one, index=first + one.index) for one in answer.rejected]

    def _stored(self, arrived: Sequence[Arrived]) -> list[Answer]:
        began_s = time.monotonic()
        found = self._sorter.sort_out(arrived)
        self._pace.learn(sum(len(one.batch.windows) for one in arrived), time.monotonic() - began_s)
        if self._store_works_elsewhere:
            self._thread_is_idle.set()
        accounted = [window for one in found for window in one.accounted]
        if accounted:
            self.meters.commit(self._store, accounted, max(one.now_ns for one in arrived))
        self.meters.refuse(rejected for one in found for rejected in one.rejected)
        epoch = self._store.epoch
        return [
            Answer(id=came.batch.id, rejected=one.rejected, store_epoch=epoch, now_ns=came.now_ns)
            for came, one in zip(arrived, found, strict=True)
        ]


def _part(came: Arrived, windows: list[msgspec.Raw]) -> Arrived:
    return msgspec.structs.replace(came, batch=msgspec.structs.replace(came.batch, windows=windows))
