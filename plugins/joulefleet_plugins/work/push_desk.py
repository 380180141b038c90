"""Takes what is pushed: understood, added up, on disk, and only then answered."""

import threading
from collections.abc import Callable, Collection
from http import HTTPStatus

from joulefleet import Counts, WorkKey
from joulefleet_plugins.interfaces.local_door import Reply
from joulefleet_plugins.work.push_book import Refused, weigh
from joulefleet_plugins.work.push_file import PushFile, Unkept
from joulefleet_plugins.work.push_message import BadMessage, Message, messages_of

RUNNING_FOR_S = 60.0
"""So long is a sender's number of running requests taken for true."""


class Desk:
    """One file of counters; many threads may take and ask at once."""

    def __init__(self, file: PushFile, engines: Collection[str], now_s: Callable[[], float]) -> None:
        """Raises Unkept."""
        self._file, self._engines, self._now_s = file, engines, now_s
        self._book, self._begun = file.book(), file.begun()
        self._running: dict[str, dict[str, tuple[int, float]]] = {name: {} for name in engines}
        self._lock = threading.Lock()

    def take(self, body: bytes) -> Reply:
        """Count the messages of a body, and say so."""
        try:
            messages = messages_of(body)
            with self._lock:
                outcome = weigh(self._book, messages, self._engines, self._now_s())
                if outcome.change.senders:
                    self._file.write(outcome.change)
                self._book = self._book.after(outcome.change)
                self._note_running(messages)
        except BadMessage as error:
            return Reply(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except Refused as refused:
            return Reply(refused.status, {"error": refused.reason})
        except Unkept as error:
            return Reply(HTTPStatus.SERVICE_UNAVAILABLE, {"error": f"not kept: {error}"})
        numbers = {"counted": outcome.counted, "repeated": outcome.repeated, "baselines": outcome.baselines}
        return Reply(HTTPStatus.OK, numbers)

    def counts(self) -> dict[str, dict[WorkKey, Counts]]:
        """The counters of each engine of which anything was told."""
        with self._lock:
            return {engine: dict(work) for engine, work in self._book.engines.items()}

    def running(self, engine: str) -> int | None:
        """Requests in flight, as all senders told lately; None where none did."""
        with self._lock:
            after_s = self._now_s() - RUNNING_FOR_S
            told = [number for number, at_s in self._running[engine].values() if at_s > after_s]
            return sum(told) if told else None

    def has_begun(self, engine: str) -> bool:
        """Whether its counters are told."""
        return engine in self._begun

    def begin(self, engine: str) -> None:
        """Its counters are told from now on, in the next processes too. Raises Unkept."""
        with self._lock:
            self._file.begin(engine)
            self._begun.add(engine)

    def close(self) -> None:
        """Keep nothing more."""
        with self._lock:
            self._file.close()

    def _note_running(self, messages: list[Message]) -> None:
        now_s = self._now_s()
        for one in messages:
            if one.running is not None:
                self._running[one.engine][one.sender] = (one.running, now_s)
        for engine, senders in self._running.items():
            self._running[engine] = {name: told for name, told in senders.items() if told[1] > now_s - RUNNING_FOR_S}
