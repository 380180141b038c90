"""Takes the requests and tokens that programs of this machine tell by `POST /v1/work`: gateways, batch jobs, any other.

Requirements: a folder for the Unix socket and one for the file, both of which the agent may write to.
What is answered with 200 is on disk and counts once, whatever happens to the agent or the sender.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from joulefleet import ConfigError, Engine, Meter, Reading, Source, SourceUnavailable, WorkReading, typed
from joulefleet.config import is_loopback
from joulefleet.units import s_to_ns
from joulefleet_plugins.interfaces.local_door import Address, LocalDoor
from joulefleet_plugins.work.place import Place, placed
from joulefleet_plugins.work.push_desk import Desk
from joulefleet_plugins.work.push_file import PushFile, Unkept
from joulefleet_plugins.work.push_message import MAX_NAME_CHARACTERS

TRIED = "on hardware"
LIVE = False
"""It listens where it is configured, and nowhere else."""
WHERE = "push"
PATH = "/v1/work"
MAX_ENGINES = 64
BEGIN_AFTER_S = 15.0
"""A new engine stands at 0 for so long, while work is taken: an agent counts from the first reading that it has kept
on, and it keeps what it has read every ten seconds."""


class PushEngine(Place, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine of which programs tell."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
    software: str = WHERE
    version: str = ""
    count_at: Literal["engine", "gateway"] = "gateway"
    """`engine`, where the work is that of engines which are read, so that this tells only who it was for."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to listen, and for whom."""

    engines: Annotated[tuple[PushEngine, ...], msgspec.Meta(min_length=1, max_length=MAX_ENGINES)]
    socket: str = "/run/joulefleet/work.sock"
    """A Unix socket, which the agent's own group may write to."""
    listen: str = ""
    """A loopback address and port in its place, which all of this machine may write to."""
    file: str = "/var/lib/joulefleet/push.db"
    period_s: Annotated[float, msgspec.Meta(ge=1)] = 5.0

    def __post_init__(self) -> None:
        if len({one.id for one in self.engines}) != len(self.engines):
            raise ValueError("two engines have one `id`")


class PushSource:
    """Engines as programs tell of them."""

    def __init__(self, config: Config, file: PushFile, now_s: Callable[[], float]) -> None:
        """Raises Unkept."""
        self._engines = [_engine(one, config) for one in config.engines]
        self.declares: tuple[Meter | Engine, ...] = tuple(self._engines)
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = self.period_ns * 2
        self._life = file.life()
        self.desk = Desk(file, {one.id for one in config.engines}, now_s)
        self._now_s = now_s
        self._since_s: float | None = None
        """When it was first read."""
        # What is told before the first reading must not be in it, or it would never be counted.
        self._first = self.desk.counts()
        self.door: LocalDoor | None = None

    def read(self) -> list[Reading]:
        """The counters of every engine now. Raises SourceUnavailable where the file cannot be written any more."""
        if self._since_s is None:
            self._since_s, counts = self._now_s(), self._first
        else:
            counts = self.desk.counts()
        return [
            WorkReading(
                engine=one.id,
                epoch=self._life,
                counts=counts.get(one.id, {}) if self._has_begun(one.id, self._since_s) else {},
                running=self.desk.running(one.id),
            )
            for one in self._engines
        ]

    def _has_begun(self, engine: str, since_s: float) -> bool:
        if not self.desk.has_begun(engine) and self._now_s() - since_s >= BEGIN_AFTER_S:
            try:
                self.desk.begin(engine)
            except Unkept as error:
                raise SourceUnavailable("not_kept", str(error)) from error
        return self.desk.has_begun(engine)

    def close(self) -> None:
        """Take nothing more."""
        if self.door is not None:
            self.door.close()
        self.desk.close()


def _engine(told: PushEngine, config: Config) -> Engine:
    return Engine(
        id=told.id,
        software=told.software,
        version=told.version,
        front=told.count_at == "engine",
        period_ns=s_to_ns(config.period_s),
        counts_at_finish=True,
        **placed(told)._asdict(),
    )


def address_of(config: Config) -> Address:
    """Where to listen. Raises ConfigError."""
    if not config.listen:
        return Path(config.socket)
    host, _, port = config.listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not is_loopback(host) or not (port.isascii() and port.isdigit() and int(port) < 2**16):
        expected = 'expected an address of this machine only, as "127.0.0.1:9465"; the work of others goes by a proxy'
        raise ConfigError(WHERE, "listen", expected)
    return host, int(port)


def opened(table: dict[str, Any], now_s: Callable[[], float] = time.time) -> PushSource:  # noqa: TID251 - when a sender was last heard of must outlive this process
    """The source by a wall clock. Raises as `open`."""
    config = typed(table, Config, WHERE)
    address, path = address_of(config), Path(config.file)
    try:
        source = PushSource(config, PushFile(path), now_s)
    except Unkept as error:
        mend = "name as `file` one that may be written here; where it is locked, a running agent has it"
        raise SourceUnavailable("not_kept", str(error), mend) from error
    try:
        source.door = LocalDoor(address, PATH, source.desk.take)
    except OSError as error:
        source.close()
        mend = "name as `socket` a path in a folder that the agent may write to"
        raise SourceUnavailable("cannot_listen", f"{config.listen or config.socket}: {error}", mend) from error
    return source


def open(table: dict[str, Any]) -> Source:
    """The door by its part of the config. Raises ConfigError, SourceUnavailable where it cannot listen or keep."""
    return opened(table)
