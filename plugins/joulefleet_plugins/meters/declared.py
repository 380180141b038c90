"""Accelerators without a meter of their own, declared by a profile: energy by a generic route.

The route is a source that the profile names (a vendor's tool, a web service), or what the server's input leaves when
the share of its host is taken off: then the table of the server's own source is nested in this one's, one poll serves
both, and the cards are one meter of the grade `residual`.
"""

import time
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Annotated, Any

import msgspec

from joulefleet import (
    ConfigError,
    Engine,
    Failure,
    Meter,
    MeterReading,
    Reading,
    Source,
    SourceUnavailable,
    typed,
)
from joulefleet.counter import Rules
from joulefleet.describe import GRADES
from joulefleet.source import OpenSource
from joulefleet.topology import COMPUTE_KINDS, Tree
from joulefleet.units import s_to_ns, w_to_mw
from joulefleet_plugins.meters.host_share import HostShare
from joulefleet_plugins.meters.profile import Profile, installed, label, load_profile
from joulefleet_plugins.meters.remainder import Remainder

TRIED = "from documents"
WHERE = "source declared"
GROUP = "joulefleet.sources"
LONGEST_STEP_NS = s_to_ns(3600)
"""Of a window: what is taken off is not cut by windows, so that no counter is too coarse for it."""


class DeclaredConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A profile, and what of it is otherwise here."""

    profile: str = ""
    """Name of a profile, or path of a file; without it, the one whose tool is on this machine."""
    id: str = ""
    """Id of the cards' meter; default: the profile's name."""
    cards: Annotated[int, msgspec.Meta(ge=1)] | None = None
    hw_model: str = ""
    max_power_w: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Rated maximum of one card."""
    route: dict[str, Any] = {}
    """Keys of the profile's route that are otherwise here."""
    server: dict[str, Any] = {}
    """The source of the server's input, by its name, `use`, and its own keys."""
    server_meter: str = ""
    """Id of the server's meter, where that source tells of several."""
    host_w: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """What the server draws without its cards, and without what the sources of `host` measure."""
    host: list[dict[str, Any]] = []
    """Sources of meters beside the cards: CPU packages, memory and other accelerators are taken off as measured."""
    host_basis: str = "declared"
    """How that is known: `measured without cards on 2026-03-01`."""


class Paced:
    """A source that is read among others, at its own pace."""

    def __init__(self, source: Source, beat_ns: int) -> None:
        """`beat_ns` is how often it is asked whether it has something to say."""
        self._source = source
        self._ids = [one.id for one in source.declares]
        # Half a beat early is on time.
        self._rest_ns = source.period_ns - beat_ns // 2 if source.period_ns > beat_ns else 0
        self._due_ns = 0

    def read(self, now_ns: int) -> list[Reading]:
        """What it says, if it is time; a failure of all of it is one of each of its meters."""
        if now_ns < self._due_ns:
            return []
        self._due_ns = now_ns + self._rest_ns
        try:
            told = self._source.read()
        except SourceUnavailable as error:
            told = [Failure(subject="", code=error.code, detail=error.detail)]
        return [each for one in told for each in self._of_each(one)]

    def _of_each(self, reading: Reading) -> list[Reading]:
        if not isinstance(reading, Failure) or reading.subject:
            return [reading]
        return [msgspec.structs.replace(reading, subject=one) for one in self._ids]


class Residual:
    """A server's input, the meters of its host, and what is left for the cards."""

    def __init__(
        self,
        server: Source,
        hosts: Sequence[Source],
        cards: Meter,
        left: Remainder,
        clock_ns: Callable[[], int],
    ) -> None:
        """`clock_ns` is one that nobody sets."""
        sources = (server, *hosts)
        self.declares: tuple[Meter | Engine, ...] = (*(one for each in sources for one in each.declares), cards)
        self.period_ns = min(one.period_ns for one in sources)
        self.deadline_ns = sum(one.deadline_ns for one in sources)
        self._server, self._hosts = Paced(server, self.period_ns), [Paced(one, self.period_ns) for one in hosts]
        self._server_meter = cards.inside
        self._cards = cards.id
        self._left = left
        self._clock_ns = clock_ns

    def read(self) -> list[Reading]:
        """All that the nested sources say, and of each word on the server's input what is left."""
        told, at_ns = self._timed(self._server)
        # After the server, so that what they say lies on both sides of its instant.
        for host in self._hosts:
            of_host, host_ns = self._timed(host)
            for reading in of_host:
                if isinstance(reading, MeterReading):
                    self._left.host.feed(reading, _instant(reading, host_ns))
            told += of_host
        left = [self._of(reading, at_ns) for reading in told]
        return [*told, *(reading for reading in left if reading is not None)]

    def _timed(self, source: Paced) -> tuple[list[Reading], int]:
        started_ns = self._clock_ns()
        told = source.read(started_ns)
        return told, (started_ns + self._clock_ns()) // 2

    def _of(self, reading: Reading, at_ns: int) -> Reading | None:
        if isinstance(reading, Failure) and reading.subject == self._server_meter:
            return Failure(subject=self._cards, code=reading.code, detail=f"the server's input: {reading.detail}")
        if isinstance(reading, MeterReading) and reading.meter == self._server_meter:
            return self._left.feed(reading, _instant(reading, at_ns))
        return None


def _instant(reading: MeterReading, read_ns: int) -> int:
    return read_ns - reading.age_ns


def _check(config: DeclaredConfig) -> None:
    """No key is passed over in silence. Raises ConfigError."""
    of_server = ("id", "cards", "host_w", "host", "server_meter")
    other, when = (("route",), "without") if config.server else (of_server, "with")
    for key in other:
        if getattr(config, key) not in (None, "", {}, []):
            raise ConfigError(WHERE, key, f"is used {when} `[sources.server]` only")


def _found() -> str:
    """The profile whose tool is on this machine. Raises SourceUnavailable, or ConfigError where there are several."""
    names = installed()
    if not names:
        mend = "name a `profile` where a chip is here that has no meter of its own"
        raise SourceUnavailable("absent", "no tool of a profile is on this machine", mend)
    if len(names) > 1:
        raise ConfigError(WHERE, "profile", f"the tool is here, but not the name: one of {', '.join(names)}")
    return names[0]


def _named(config: DeclaredConfig) -> Profile:
    """The profile with what is otherwise here. Raises ConfigError."""
    profile = load_profile(config.profile, WHERE)
    here = {
        "cards": config.cards or profile.cards,
        "hw_model": config.hw_model or profile.hw_model,
        "max_power_w": config.max_power_w or profile.max_power_w,
        "route": {**profile.route, **config.route},
    }
    return msgspec.structs.replace(profile, **here)


def _open(table: dict[str, Any], key: str) -> Source:
    """The source that a nested table names. Raises ConfigError, and whatever that source raises."""
    name = table.get("use")
    for point in entry_points(group=GROUP, name=str(name)):
        opener: OpenSource = point.load()
        try:
            return opener({name: value for name, value in table.items() if name != "use"})
        except ConfigError as error:
            raise ConfigError(f"{WHERE}, {key}: {error.where}", error.key, error.expected) from error
    raise ConfigError(WHERE, f"{key}.use", f"expected the name of a source; none is named {name!r}")


def _by_route(profile: Profile) -> Source:
    """The source of a profile's route, its meters with what the profile knows of them."""
    known = {
        "kind": profile.kind,
        "hw_model": profile.hw_model,
        "max_power_w": profile.max_power_w,
        "idle_w": profile.idle_w,
        "basis": _basis(profile),
    }
    if "meters" not in profile.route:
        return _open(profile.route, "route")
    meters = [{**known, **one} for one in profile.route["meters"]]
    return _open({**profile.route, "meters": meters}, "route")


def _basis(profile: Profile) -> str:
    return f"rated power: {profile.basis} ({profile.confidence} confidence)"


def _server_of(declares: Sequence[Meter | Engine], named: str) -> Meter:
    servers = [one for one in declares if isinstance(one, Meter) and one.kind == "server" and named in ("", one.id)]
    if len(servers) != 1:
        ids = ", ".join(one.id for one in declares if isinstance(one, Meter) and one.kind == "server") or "none"
        raise ConfigError(WHERE, "server_meter", f"expected the id of the server's input; the source tells of: {ids}")
    return servers[0]


def _host_parts(hosts: Sequence[Source]) -> tuple[Meter, ...]:
    """CPU packages, memory and other accelerators that do not overlap. Raises ConfigError where a source has none."""
    found: list[Meter] = []
    for k, source in enumerate(hosts):
        told = [one for one in source.declares if isinstance(one, Meter)]
        if not any(one.kind in COMPUTE_KINDS for one in told):
            raise ConfigError(WHERE, f"host[{k}]", "expected a source of CPU packages, memory or other accelerators")
        found += told
    return tuple(Tree(found, LONGEST_STEP_NS).choose(COMPUTE_KINDS))


def _cards(config: DeclaredConfig, profile: Profile, server: Meter, host: str) -> Meter:
    if profile.cards is None or profile.max_power_w is None:
        key = "cards" if profile.cards is None else "max_power_w"
        raise ConfigError(WHERE, key, "the profile does not know it: say it here")
    return Meter(
        id=config.id or label(config.profile),
        kind="accelerator",
        # What is left of a modelled figure is modelled.
        grade=max("residual", server.grade, key=GRADES.index),
        # The host's share is a constant, and the error of the server's meter falls on the cards alone.
        sensor_class="modelled",
        inside=server.id,
        hw_model=profile.hw_model,
        resolution_uj=server.resolution_uj,
        refresh_ns=max(server.refresh_ns, server.period_ns),
        period_ns=server.period_ns,
        max_power_mw=profile.cards * w_to_mw(profile.max_power_w),
        current=server.current,
        basis=f"{server.id} less {host}; {_basis(profile)}",
        idle_mw=profile.cards * w_to_mw(profile.idle_w),
        simulated=server.simulated,
    )


def opened(table: dict[str, Any], clock_ns: Callable[[], int] = time.monotonic_ns) -> Source:
    """A declared accelerator, by a clock that nobody sets. Raises as `open`."""
    config = typed(table, DeclaredConfig, WHERE)
    if not config.profile:
        config = msgspec.structs.replace(config, profile=_found())
    profile = _named(config)
    if not config.server and not profile.route:
        expected = f"{profile.name} has no interface of its own: name the source of its server's input, and host_w"
        raise ConfigError(WHERE, "server", expected)
    _check(config)
    if not config.server:
        return _by_route(profile)
    return _residual(config, profile, clock_ns)


def _residual(config: DeclaredConfig, profile: Profile, clock_ns: Callable[[], int]) -> Source:
    if config.host_w is None:
        raise ConfigError(WHERE, "host_w", "say what the server draws without its cards, in watts")
    source = _open(config.server, "server")
    hosts = [_open(table, f"host[{k}]") for k, table in enumerate(config.host)]
    server, parts = _server_of(source.declares, config.server_meter), _host_parts(hosts)
    measured = "".join(f", less {part.id}" for part in parts)
    cards = _cards(config, profile, server, f"{config.host_w:g} W of its host ({config.host_basis}){measured}")
    host = HostShare(w_to_mw(config.host_w), parts)
    left = Remainder(meter=cards.id, host=host, rules=Rules.of(server), life=f"{clock_ns():x}")
    return Residual(source, hosts, cards, left, clock_ns)


def open(table: dict[str, Any]) -> Source:
    """A declared accelerator.

    Raises ConfigError, and SourceUnavailable where the source of its route cannot be opened, or where no profile is
    named and no tool of one is here.
    """
    return opened(table)
