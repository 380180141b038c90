"""The one writer of a collector of several processes: groups that wait while it commits go into the next commit."""

import logging
import socket
import threading
from collections import deque
from collections.abc import Sequence
from itertools import chain

import msgspec

from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.handover import (
    Check,
    Done,
    Fault,
    Group,
    Outcome,
    Request,
    Retire,
    Settle,
    Unavailable,
    Unpacker,
)
from joulefleet_collector.store.lane import serve
from joulefleet_collector.store.store import Accounted, StoreUnavailable

ENOUGH = 2_000
"""Windows that make a commit: more would not make one cheaper, and rows that wait get a turn with each commit."""

LOG = logging.getLogger(__name__)


class _Waiting(msgspec.Struct, eq=False):
    """A group, and what became of it."""

    accounted: list[Accounted]
    received_ns: int
    outcome: Outcome | None = None


class Writer:
    """Does for other processes what only one may do. Its methods may be called from any thread."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._store = store
        self._waiting: deque[_Waiting] = deque()
        self._guard = threading.Lock()
        self._turn = threading.Lock()

    def serve(self, end: socket.socket) -> None:
        """Do what is asked over this end of a lane until the other end is closed; then close this one."""
        unpacker, decoder = Unpacker(), msgspec.msgpack.Decoder(Request)
        with end:
            serve(end, lambda message: msgspec.msgpack.encode(self._done(decoder.decode(message), unpacker)))

    def keep(self, accounted: list[Accounted], received_ns: int) -> Outcome:
        """Keep this group, in one commit with those that wait beside it; durable when it returns."""
        one = _Waiting(accounted, received_ns)
        with self._guard:
            self._waiting.append(one)
        with self._turn:
            # Whoever had the turn before may have taken this group along; and those before it go first.
            while one.outcome is None:
                self._keep_all(self._taken())
        assert one.outcome is not None
        return one.outcome

    def _done(self, request: Request, unpacker: Unpacker) -> Outcome:
        try:
            match request:
                case Group():
                    return self.keep(unpacker.accounted(request), request.received_ns)
                case Settle():
                    self._store.settle()
                case Check():
                    self._store.check()
                case Retire():
                    self._store.retire(request.changes)
        except StoreUnavailable as error:
            return Unavailable(error.where, error.reason, error.mend)
        except Exception as error:  # whoever asked is told, and the others go on
            LOG.exception("the writer failed")
            return _fault(error)
        return Done()

    def _taken(self) -> list[_Waiting]:
        with self._guard:
            taken = [self._waiting.popleft()]
            while self._waiting and sum(len(one.accounted) for one in taken) < ENOUGH:
                taken.append(self._waiting.popleft())
        return taken

    def _keep_all(self, groups: Sequence[_Waiting]) -> None:
        """Keep these in one commit; one that spoils it is alone in it."""
        try:
            received_ns = max(one.received_ns for one in groups)
            new = self._store.keep([*chain.from_iterable(one.accounted for one in groups)], received_ns)
        except StoreUnavailable as error:
            _tell(groups, Unavailable(error.where, error.reason, error.mend))
        except Exception as error:  # a fault of ours concerns the group that has it
            if len(groups) > 1:
                for one in groups:
                    self._keep_all([one])
                return
            LOG.exception("a group cannot be kept")
            _tell(groups, _fault(error))
        else:
            known = {id(one) for one in new}
            for group in groups:
                group.outcome = Done(sum(id(one) in known for one in group.accounted))


def _fault(error: Exception) -> Fault:
    return Fault(f"{type(error).__name__}: {error}")


def _tell(groups: Sequence[_Waiting], outcome: Outcome) -> None:
    for one in groups:
        one.outcome = outcome
