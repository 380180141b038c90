"""The embedded store as a worker has it: read here, written by the one process that writes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.handover import Check, Fault, Outcome, Packer, Request, Retire, Settle, Unavailable
from joulefleet_collector.store.lane import Lane, LaneClosed
from joulefleet_collector.store.store import Accounted, StoreUnavailable

_OUTCOME: msgspec.msgpack.Decoder[Outcome] = msgspec.msgpack.Decoder(Outcome)


class HandingStore(EmbeddedStore):
    """A `Store` on a file that another process writes: what is written here is handed to that one."""

    def __init__(self, data_dir: Path, new_epoch: Callable[[], str], groups: Lane, rest: Lane) -> None:
        """Open the store that the writer has opened. Groups go over a lane of their own: nothing else holds them up."""
        super().__init__(data_dir, new_epoch)
        self._writer.execute("PRAGMA query_only = ON")  # whatever writes here by mistake fails
        self._packer = Packer()
        self._groups = groups
        self._rest = rest

    def write(self, accounted: Sequence[Accounted], received_ns: int) -> int:
        """Keep these windows with their rows, all or none; durable when it returns. Returns how many were new."""
        with self._write_lock:  # groups have to arrive in the order in which they are packed
            return self._asked(self._groups, self._packer.group(accounted, received_ns))

    def settle(self) -> None:
        """Have rows that wait brought into the sums."""
        self._asked(self._rest, Settle())

    def retire(self, changes: Mapping[str, int | None]) -> None:
        """Keep these servers as retired; None takes one back. Durable when it returns."""
        self._asked(self._rest, Retire(dict(changes)))

    def check(self) -> None:
        """Raises StoreUnavailable where a write would fail now."""
        self._asked(self._rest, Check())

    def _asked(self, lane: Lane, request: Request) -> int:
        try:
            outcome = _OUTCOME.decode(lane.ask(msgspec.msgpack.encode(request)))
        except LaneClosed as error:
            mend = "the collector ends; its service manager starts it again"
            raise StoreUnavailable(str(self.path), "the process that writes it is gone", mend) from error
        if isinstance(outcome, Unavailable):
            raise StoreUnavailable(outcome.where, outcome.reason, outcome.mend)
        if isinstance(outcome, Fault):
            raise ValueError(f"the writer failed over it: {outcome.error}")
        return outcome.new
