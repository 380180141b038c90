"""Sorting windows out: the good ones with their rows, the refused ones with their reasons."""

import logging
from collections.abc import Callable, Sequence

import msgspec

from joulefleet.delivery import Batch, Rejected
from joulefleet.units import NS_PER_S
from joulefleet.window import Window, WrongSchema, decode
from joulefleet_collector.account.accounting import Accounting
from joulefleet_collector.account.numbers import Told, told
from joulefleet_collector.account.skim import Head, digest, head, skim
from joulefleet_collector.judge import Refused, judge
from joulefleet_collector.rows import Row
from joulefleet_collector.sheet import SheetRows
from joulefleet_collector.store.store import Account, Accounted

LOG = logging.getLogger(__name__)
EARLY_NS = 60 * NS_PER_S
"""How far ahead of the collector's clock a window may start: clocks differ."""

AT_ONCE = 500
"""Windows that are accounted together: of more, the first are no longer at hand when the last have been read."""

Decode = Callable[[msgspec.Raw], Window]
"""`window.decode` or `window.decode_json`, as the batch came."""


class Sorted(msgspec.Struct):
    """What of a batch is to be kept, and what is refused."""

    accounted: list[Accounted] = []
    rejected: list[Rejected] = []


class Arrived(msgspec.Struct, frozen=True):
    """A batch, how its windows are read, and when it came."""

    batch: Batch
    decode: Decode
    now_ns: int


class _Place(msgspec.Struct, frozen=True):
    """A window in a batch, and the starts that are taken."""

    body: msgspec.Raw
    decode: Decode
    index: int
    oldest_ns: int
    newest_ns: int
    goes_to: Sorted


class _Quick(msgspec.Struct, frozen=True, gc=False):
    """A window that was skimmed: its key, its digest, and its numbers."""

    head: Head
    mark: bytes
    told: Told


class Sorter:
    """Decodes, judges and accounts windows. Called by one thread at a time."""

    def __init__(self, account: Account, keep_windows_ns: int) -> None:
        self._account = account
        self._keep_windows_ns = keep_windows_ns

    def sort_out(self, arrived: Sequence[Arrived]) -> list[Sorted]:
        """The windows of each batch. What is not known of a window's declarations is judged and remembered."""
        found = [Sorted() for _ in arrived]
        places = [place for one, goes_to in zip(arrived, found, strict=True) for place in self._places(one, goes_to)]
        for first in range(0, len(places), AT_ONCE):
            self._take(places[first : first + AT_ONCE])
        for one in found:
            one.rejected.sort(key=lambda rejected: rejected.index)
        return found

    def _take(self, places: Sequence[_Place]) -> None:
        left = self._at_once(self._account, places) if isinstance(self._account, Accounting) else places
        for place in left:
            self._by_definition(place)

    def _places(self, one: Arrived, goes_to: Sorted) -> list[_Place]:
        oldest_ns = 0 if one.batch.backfill else one.now_ns - self._keep_windows_ns
        return [
            _Place(body, one.decode, index, oldest_ns, one.now_ns + EARLY_NS, goes_to)
            for index, body in enumerate(one.batch.windows)
        ]

    def _at_once(self, accounting: Accounting, places: Sequence[_Place]) -> list[_Place]:
        """Account those that can be accounted together; returns the others."""
        skimmed = [(place, self._skimmed(accounting, place)) for place in places]
        quick = [(place, one) for place, one in skimmed if one is not None]
        rest = [place for place, one in skimmed if one is None]
        for (place, one), rows in zip(quick, _rows_at_once(accounting, quick), strict=True):
            if rows is None:
                rest.append(place)
            else:
                place.goes_to.accounted.append(Accounted(one.head, bytes(place.body), rows))
        return rest

    def _skimmed(self, accounting: Accounting, place: _Place) -> _Quick | None:
        window = skim(place.body) if place.decode is decode else None
        if window is None or not place.oldest_ns <= window.start_ns <= place.newest_ns:
            return None
        mark = digest(window)
        try:
            if not accounting.knows(mark):
                accounting.learn(mark, _good(place))
            return _Quick(head(window), mark, told(window))
        except Exception:  # whatever it is, the definition meets it again, and says which window it was
            return None

    def _by_definition(self, place: _Place) -> None:
        try:
            window = _good(place)
            place.goes_to.accounted.append(Accounted(window, window.encode(), self._rows(window)))
        except Refused as refused:
            rejected = Rejected(index=place.index, code=refused.code, start_ns=refused.start_ns, detail=refused.detail)
            place.goes_to.rejected.append(rejected)

    def _rows(self, window: Window) -> list[Row]:
        try:
            return self._account(window)
        except Exception as error:
            # A fault of ours: the window waits with its agent until a better version takes it; the others go on.
            LOG.exception("the window %s cannot be accounted", window.key)
            detail = f"{type(error).__name__} while accounting it; the collector's log tells more"
            raise Refused("not_accounted", detail, window.start_ns) from error


def _rows_at_once(accounting: Accounting, quick: Sequence[tuple[_Place, _Quick]]) -> list[SheetRows | None]:
    try:
        return accounting.at_once([(one.mark, one.told) for _, one in quick])
    except Exception:  # a fault of ours costs speed: the definition accounts each of them
        LOG.exception("windows cannot be accounted together; each is accounted alone")
        return [None] * len(quick)


def _good(place: _Place) -> Window:
    try:
        window = place.decode(place.body)
    except WrongSchema as error:
        raise Refused("wrong_schema", str(error)) from error
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Refused("malformed", str(error)) from error
    judge(window, place.oldest_ns, place.newest_ns)
    return window
