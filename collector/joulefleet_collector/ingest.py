"""Taking windows in: judges each one, accounts it and keeps it, and says which were refused and why."""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from joulefleet.delivery import Answer, Batch, Rejected
from joulefleet.units import NS_PER_S
from joulefleet.window import Window, WrongSchema
from joulefleet_collector.judge import Refused, judge
from joulefleet_collector.rows import Row
from joulefleet_collector.store.store import DAY_NS, Account, Accounted, Store

LOG = logging.getLogger(__name__)
KEEP_WINDOWS_NS = 7 * DAY_NS
EARLY_NS = 60 * NS_PER_S
"""How far ahead of the collector's clock a window may start: clocks differ."""
MAX_WAITING = 64
"""Batches in hand at once; more are told to wait, so that memory stays bounded."""

Decode = Callable[[msgspec.Raw], Window]
"""`window.decode` or `window.decode_json`, as the batch came."""


class Busy(Exception):
    """More batches wait than the collector holds at once."""


class Ingest:
    """The way from a batch to the store. One batch is written at a time."""

    def __init__(
        self,
        store: Store,
        account: Account,
        now_ns: Callable[[], int],
        keep_windows_ns: int = KEEP_WINDOWS_NS,
    ) -> None:
        self._store = store
        self._account = account
        self._now_ns = now_ns
        self._keep_windows_ns = keep_windows_ns
        self._writing = asyncio.Lock()
        self._waiting = 0

    async def take(self, batch: Batch, decode: Decode) -> Answer:
        """Keep the good windows of a batch, durably when this returns, and name the others.

        Raises Busy, or StoreUnavailable; then nothing of the batch was stored.
        """
        if self._waiting >= MAX_WAITING:
            raise Busy(f"{MAX_WAITING} batches are in hand; send this one again later")
        self._waiting += 1
        try:
            return await self._take(batch, decode)
        finally:
            self._waiting -= 1

    async def _take(self, batch: Batch, decode: Decode) -> Answer:
        now_ns = self._now_ns()
        accounted, rejected = await asyncio.to_thread(self.sort_out, batch, decode, now_ns)
        if accounted:
            async with self._writing:
                await asyncio.to_thread(self._store.write, accounted, now_ns)
        return Answer(id=batch.id, rejected=rejected, store_epoch=self._store.epoch, now_ns=now_ns)

    def sort_out(self, batch: Batch, decode: Decode, now_ns: int) -> tuple[list[Accounted], list[Rejected]]:
        """The good windows of a batch with their rows, and the refused ones with reasons."""
        oldest_ns = 0 if batch.backfill else now_ns - self._keep_windows_ns
        accounted: list[Accounted] = []
        rejected: list[Rejected] = []
        for index, body in enumerate(batch.windows):
            try:
                window = _good(body, decode, oldest_ns, now_ns + EARLY_NS)
                accounted.append(Accounted(window, window.encode(), self._rows(window)))
            except Refused as refused:
                rejected.append(_rejected(index, refused))
        return accounted, rejected

    def _rows(self, window: Window) -> list[Row]:
        try:
            return self._account(window)
        except Exception as error:
            # A fault of ours: the window waits with its agent until a better version takes it; the others go on.
            LOG.exception("the window %s cannot be accounted", window.key)
            detail = f"{type(error).__name__} while accounting it; the collector's log tells more"
            raise Refused("not_accounted", detail, window.start_ns) from error


def _good(body: msgspec.Raw, decode: Decode, oldest_ns: int, newest_ns: int) -> Window:
    try:
        window = decode(body)
    except WrongSchema as error:
        raise Refused("wrong_schema", str(error)) from error
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Refused("malformed", str(error)) from error
    judge(window, oldest_ns, newest_ns)
    return window


def _rejected(index: int, refused: Refused) -> Rejected:
    return Rejected(index=index, code=refused.code, start_ns=refused.start_ns, detail=refused.detail)
