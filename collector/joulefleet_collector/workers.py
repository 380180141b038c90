"""The collector as several processes: workers take windows in, and the process that started them writes for all.

The writer begins with nothing open but the address, and makes its workers by a fork: no port, file or name leads from
one to the other, only pairs of sockets that nobody else has. When either end of these is gone the other one ends too.
Whatever ends unasked ends the whole, and the service manager starts it again: nothing that was answered is lost by it.
"""

import asyncio
import multiprocessing
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

from joulefleet.notify import ALIVE, READY, STOPPING, notify
from joulefleet_collector.config import CollectorConfig, Listen
from joulefleet_collector.metrics import Counts, Meters, shared
from joulefleet_collector.service import (
    ALIVE_EVERY_S,
    SHUTDOWN_S,
    Part,
    beat,
    cannot_listen,
    collect_seldom,
    ends_on_signal,
    gate_of,
    listening,
    open_influx,
    opened,
    rules_of,
    run,
    tls_of,
    under,
    url_of,
)
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.handing import HandingStore
from joulefleet_collector.store.lane import Lane
from joulefleet_collector.store.store import Store
from joulefleet_collector.store.writer import Writer

SILENT_S = 6 * ALIVE_EVERY_S
"""A worker that has not been heard from for so long hangs: the service manager is told no more that all are alive."""
END_S = 2 * SHUTDOWN_S
"""In which a worker that was told to end has ended."""
_BEAT = b"."

Sockets = Sequence[socket.socket]
_FORK = multiprocessing.get_context("fork")


class WorkerEnded(Exception):
    """A worker ended, and nobody had told it to."""

    def __init__(self, pid: int | None, exit_code: int | None) -> None:
        self.pid = pid
        self.exit_code = exit_code
        """Below zero: the number of the signal that killed it."""
        super().__init__(pid, exit_code)

    def __str__(self) -> str:
        code = self.exit_code or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"worker {self.pid} {how}, and the collector ends with it; start it again: agents send what is missing"


class _WriterGone(Exception):
    """The writer ended, or could not begin."""


class _Ends(NamedTuple):
    """One end of each socket pair between the writer and a worker."""

    life: socket.socket
    """The writer says once that the store is open, the worker again and again that it listens."""
    groups: socket.socket
    rest: socket.socket


class _Worker:
    """A worker as the writer knows it."""

    def __init__(self, process: "multiprocessing.context.ForkProcess", ends: _Ends) -> None:
        self.ends = ends
        self._process = process
        self.heard_s = 0.0
        self._listens = asyncio.Event()

    def is_alive(self, now_s: float) -> bool:
        """Whether it was heard from lately."""
        return now_s - self.heard_s < SILENT_S

    async def until_it_listens(self) -> None:
        await self._listens.wait()

    async def until_it_ends(self) -> None:
        """Let it begin, and hear it until it ends."""
        reader, writer = await asyncio.open_connection(sock=self.ends.life)
        writer.write(_BEAT)
        await _until_closed(reader, self._hear)
        writer.close()

    def _hear(self) -> None:
        self.heard_s = asyncio.get_running_loop().time()
        self._listens.set()

    def joined(self) -> WorkerEnded:
        """How it ended; it must have."""
        self._process.join(END_S)
        return WorkerEnded(self._process.pid, self._process.exitcode)

    def tell_to_end(self) -> None:
        self._process.terminate()

    def let_go(self) -> None:
        """Close its lanes, which ends it where nothing else has, and wait."""
        for end in self.ends:
            end.close()
        self.end()

    def end(self) -> None:
        """Wait until it has ended, and kill it where it does not."""
        self._process.join(END_S)
        self._process.kill()
        self._process.join()


def serve_with_workers(config: CollectorConfig, announce: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT, as `service.serve` does in one process.

    Raises StoreUnavailable, CannotListen, ConfigError or WorkerEnded.
    """
    # What is wrong with these is told once, here.
    gate_of(config.auth, time.time_ns)
    tls_of(config.listen)
    rules_of(config)
    doors = bound(config.listen, config.workers)
    url = url_of(config.listen, doors[0][0].getsockname()[1])
    counts = shared(1 + config.workers)
    Meters(counts=counts)  # the writer takes nothing in, but its memory and time are the collector's too
    with _started(config, doors, counts) as workers:
        run(_lead(config, workers, lambda: announce(url)))


def bound(listen: Listen, number: int) -> list[list[socket.socket]]:
    """For each of so many processes its own sockets of this address; connections are spread over them evenly.

    Raises CannotListen.
    """
    try:
        found = socket.getaddrinfo(listen.host or None, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        places = [(family, place) for family, _, _, _, place in found]
        # A port that several may share would be shared with a stranger as well: only one that is free is taken.
        with closing(_bound(*places[0], shared=False)) as trial:
            port = trial.getsockname()[1]
        return [
            [_bound(family, (place[0], port, *place[2:]), shared=True) for family, place in places]
            for _ in range(number)
        ]
    except OSError as error:
        raise cannot_listen(listen, error) from error


def _bound(family: int, place: tuple[Any, ...], shared: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(place)
    except BaseException:
        one.close()
        raise
    return one


@contextmanager
def _started(config: CollectorConfig, doors: Sequence[Sockets], counts: Counts) -> Iterator[list[_Worker]]:
    """A worker for each of these doors; none is left afterwards. The first of the counts are the writer's."""
    workers: list[_Worker] = []
    try:
        for place, door in enumerate(doors, 1):
            ours, theirs = _pairs()
            others = [*ours, *(end for one in workers for end in one.ends)]
            others += [one for other in doors if other is not door for one in other]
            count = partial(Meters, counts=counts, place=place)
            process = _FORK.Process(target=_work, args=(config, door, theirs, others, count), daemon=True)
            process.start()
            for one in theirs:
                one.close()
            workers.append(_Worker(process, ours))
        for one in (one for door in doors for one in door):
            one.close()
        yield workers
    finally:
        for worker in workers:
            worker.let_go()


def _pairs() -> tuple[_Ends, _Ends]:
    """The writer's ends and the worker's."""
    pairs = [socket.socketpair() for _ in _Ends._fields]
    ours, theirs = (_Ends(*ends) for ends in zip(*pairs, strict=True))
    for life in (ours.life, theirs.life):
        life.setblocking(False)
    return ours, theirs


async def _lead(config: CollectorConfig, workers: Sequence[_Worker], announce: Callable[[], None]) -> None:
    """The life of the writer."""
    told_to_end, loop = ends_on_signal(), asyncio.get_running_loop()
    store, keeping = opened(config, os.environ)
    with closing(store):
        async with keeping, _writing(store, workers), _followed(workers, told_to_end):
            await _all_listen(workers, told_to_end)
            collect_seldom()
            if not told_to_end.is_set():
                announce()
                notify(READY)
            await beat(lambda: all(one.is_alive(loop.time()) for one in workers) and notify(ALIVE), told_to_end)
            notify(STOPPING)


@asynccontextmanager
async def _writing(store: Store, workers: Sequence[_Worker]) -> AsyncIterator[None]:
    """While inside, write what workers hand over; all have ended afterwards. On InfluxDB each writes by itself."""
    lanes = [lane for worker in workers for lane in (worker.ends.groups, worker.ends.rest)]
    writer = Writer(store) if isinstance(store, EmbeddedStore) else None
    threads = [threading.Thread(target=writer.serve, args=(lane,)) for lane in lanes] if writer else []
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.tell_to_end()
        for worker in workers:
            await asyncio.to_thread(worker.end)
        for thread in threads:
            thread.join()


@asynccontextmanager
async def _followed(workers: Sequence[_Worker], told_to_end: asyncio.Event) -> AsyncIterator[None]:
    """Hear all workers while inside. Raises WorkerEnded where one of them ends meanwhile, which ends the writer too."""
    ends = {asyncio.create_task(worker.until_it_ends()): worker for worker in workers}
    for end in ends:
        end.add_done_callback(lambda _: told_to_end.set())
    try:
        yield
        ended = [worker.joined() for end, worker in ends.items() if end.done()]
    finally:
        for end in ends:
            end.cancel()
    if unasked := [one for one in ended if one.exit_code]:
        raise unasked[0]


async def _all_listen(workers: Sequence[_Worker], told_to_end: asyncio.Event) -> None:
    """Return when all of them listen, or when it is time to end."""
    listen = asyncio.gather(*(worker.until_it_listens() for worker in workers))
    either: list[asyncio.Future[Any]] = [asyncio.create_task(told_to_end.wait()), listen]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    for one in either:
        one.cancel()


def _work(config: CollectorConfig, door: Sockets, ends: _Ends, others: Sockets, meters: Callable[[], Meters]) -> None:
    """The life of a worker. `others` are what it was born with and must not hold: the writer's ends among them."""
    for one in others:
        one.close()
    try:
        run(_take_in(config, door, ends, meters()))
    except _WriterGone:
        sys.exit(1)  # the writer has said why, where it could


async def _take_in(config: CollectorConfig, door: Sockets, ends: _Ends, meters: Meters) -> None:
    told_to_end = ends_on_signal()
    reader, writer = await asyncio.open_connection(sock=ends.life)
    if not await reader.read(1):
        raise _WriterGone
    writer_gone = asyncio.create_task(_until_closed(reader, lambda: None))
    writer_gone.add_done_callback(lambda _: told_to_end.set())
    with closing(_store(config, ends)) as store:
        async with listening(config, store, under(config.policy), time.time_ns, Part(door, meters)):
            collect_seldom()
            await beat(lambda: writer.write(_BEAT), told_to_end)
    if writer_gone.done():
        raise _WriterGone


async def _until_closed(reader: asyncio.StreamReader, hear: Callable[[], None]) -> None:
    """Hear what comes until the other end is closed."""
    with suppress(ConnectionError):  # it was killed before it had heard all
        while await reader.read(64):
            hear()


def _store(config: CollectorConfig, ends: _Ends) -> Store:
    if config.store.kind == "influxdb":
        return open_influx(config, os.environ)
    return HandingStore(config.data_dir, lambda: secrets.token_hex(8), Lane(ends.groups), Lane(ends.rest))
