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

from joulefleet import ConfigError, Engine, Failure, Meter, MeterReading, Reading, Source, typed
from joulefleet.counter import Rules
from joulefleet.describe import GRADES
from joulefleet.source import OpenSource
from joulefleet.units import mw_to_w, w_to_mw
from joulefleet_plugins.meters.profile import Profile, label, load_profile
from joulefleet_plugins.meters.remainder import Remainder

TRIED = "from documents"
WHERE = "source declared"
GROUP = "joulefleet.sources"


class DeclaredConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A profile, and what of it is otherwise here."""

    profile: str
    """Name of a profile, or path of a file."""
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
    """What the server draws without its cards."""
    host_basis: str = "declared"
    """How that is known: `measured without cards on 2026-03-01`."""


class Residual:
    """A server's input, and what it leaves for the cards."""

    def __init__(self, inner: Source, server: Meter, cards: Meter, host_mw: int, clock_ns: Callable[[], int]) -> None:
        """`clock_ns` is one that nobody sets."""
        self.declares: tuple[Meter | Engine, ...] = (*inner.declares, cards)
        self.period_ns = inner.period_ns
        self.deadline_ns = inner.deadline_ns
        self._inner = inner
        self._server = server.id
        self._cards = cards.id
        self._clock_ns = clock_ns
        life = f"{clock_ns():x}"
        self._left = Remainder(meter=cards.id, host_mw=host_mw, rules=Rules.of(server), life=life)

    def read(self) -> list[Reading]:
        """All that the inner source says, and of each word on the server's input what is left. Raises as that does."""
        started_ns = self._clock_ns()
        told = self._inner.read()
        at_ns = (started_ns + self._clock_ns()) // 2
        left = (self._of(reading, at_ns) for reading in told)
        return [*told, *(reading for reading in left if reading is not None)]

    def _of(self, reading: Reading, at_ns: int) -> Reading | None:
        if isinstance(reading, Failure) and reading.subject == self._server:
            return Failure(subject=self._cards, code=reading.code, detail=f"the server's input: {reading.detail}")
        if isinstance(reading, MeterReading) and reading.meter == self._server:
            return self._left.feed(reading, reading.at_ns or at_ns - reading.age_ns)
        return None


def _check(config: DeclaredConfig) -> None:
    """No key is passed over in silence. Raises ConfigError."""
    other, when = (("route",), "without") if config.server else (("id", "cards", "host_w", "server_meter"), "with")
    for key in other:
        if getattr(config, key) not in (None, "", {}):
            raise ConfigError(WHERE, key, f"is used {when} `[sources.server]` only")


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
        return opener({key: value for key, value in table.items() if key != "use"})
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


def _cards(config: DeclaredConfig, profile: Profile, server: Meter, host_mw: int) -> Meter:
    if profile.cards is None or profile.max_power_w is None:
        key = "cards" if profile.cards is None else "max_power_w"
        raise ConfigError(WHERE, key, "the profile does not know it: say it here")
    host = f"{server.id} less {mw_to_w(host_mw):g} W of its host ({config.host_basis})"
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
        basis=f"{host}; {_basis(profile)}",
        idle_mw=profile.cards * w_to_mw(profile.idle_w),
        simulated=server.simulated,
    )


def opened(table: dict[str, Any], clock_ns: Callable[[], int] = time.monotonic_ns) -> Source:
    """A declared accelerator, by a clock that nobody sets. Raises as `open`."""
    config = typed(table, DeclaredConfig, WHERE)
    profile = _named(config)
    if not config.server and not profile.route:
        expected = f"{profile.name} has no interface of its own: name the source of its server's input, and host_w"
        raise ConfigError(WHERE, "server", expected)
    _check(config)
    if not config.server:
        return _by_route(profile)
    if config.host_w is None:
        raise ConfigError(WHERE, "host_w", "say what the server draws without its cards, in watts")
    inner, host_mw = _open(config.server, "server"), w_to_mw(config.host_w)
    server = _server_of(inner.declares, config.server_meter)
    return Residual(inner, server, _cards(config, profile, server, host_mw), host_mw, clock_ns)


def open(table: dict[str, Any]) -> Source:
    """A declared accelerator.

    Raises ConfigError, and SourceUnavailable where the source of its route cannot be opened.
    """
    return opened(table)
