"""A server's input, or a whole enclosure's, as the outlets of its power distribution units (PDUs) tell it by SNMP.

Asks SNMP v2c or v3 agents for the objects in `snmp_pdus.PDUS`, through the package `gufo-snmp`.

A server with redundant supplies is fed by several outlets: they make one meter, their sum, which is absent as soon as
one of them is. The energy counters of most units step by 1 Wh or 0.1 kWh (360 kJ), too coarse for short windows, so
that a counter is a meter of its own beside the power, of the same device: accounting takes the better one and has the
other as a cross-check.
"""

import importlib
import re
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from joulefleet import (
    WHOLE,
    ConfigError,
    Engine,
    Failure,
    Kind,
    Meter,
    MeterReading,
    Reading,
    Source,
    SourceUnavailable,
    typed,
)
from joulefleet.units import ms_to_ns, ns_to_s, s_to_ns, uj_over_mw_to_ns, w_to_mw
from joulefleet_plugins.meters.snmp_pdus import PDUS, Fed, NotFed, Pdu, fed

TRIED = "faithful fake"
PARTS: tuple[Kind, ...] = ("accelerator", "module", "cpu_package", "cpu_core", "dram", "psys", "host")
REFRESH_NS = ms_to_ns(5_000)
"""Units measure every second to every five; none of them tells how often."""
STALE_NS = s_to_ns(60)
"""A value is stale once the time that its unit put on it has stood still for so long."""
ANSWER_S = 1.0
TRIES = 2
MOST_OIDS = 20
"""In one request: an answer of 484 bytes is all that every agent must be able to give (RFC 3417)."""
SHORTEST_PASSPHRASE = 8
"""RFC 3414, section 11.2."""

Index = Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d+)*$")]
AUTH = {
    "md5": "Md5Key",
    "sha1": "Sha1Key",
    "sha224": "Sha224Key",
    "sha256": "Sha256Key",
    "sha384": "Sha384Key",
    "sha512": "Sha512Key",
}
PRIV = {"des": "DesKey", "aes128": "Aes128Key", "aes192": "Aes192Key", "aes256": "Aes256Key"}


class Feed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One outlet or inlet of one unit."""

    host: str
    outlet: Index
    """Its index as the MIB counts it: `7`, `1.7`."""
    port: Annotated[int, msgspec.Meta(gt=0, lt=65_536)] = 161


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is fed: a server, or an enclosure with several servers in it."""

    id: str = "pdu"
    feeds: Annotated[tuple[Feed, ...], msgspec.Meta(min_length=1)]
    """All of them: the server's input is their sum."""
    max_w: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Rated input; what the outlets can give where it is not told."""
    enclosure: bool = False
    """Whether other servers are fed too."""
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    """Part of an enclosure that is this server's, as declared."""


class SnmpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    pdu: str
    """Make of the units, a name of `PDUS`."""
    meters: Annotated[tuple[Input, ...], msgspec.Meta(min_length=1)]
    community_file: str = ""
    """For v2c: a file that holds the community alone. Names and values go over the network in clear text."""
    user: str = ""
    """For v3."""
    auth: Literal["md5", "sha1", "sha224", "sha256", "sha384", "sha512"] = "sha256"
    auth_file: str = ""
    priv: Literal["des", "aes128", "aes192", "aes256"] = "aes128"
    priv_file: str = ""
    period_s: Annotated[float, msgspec.Meta(ge=1, le=60)] = 10.0

    def __post_init__(self) -> None:
        """Raises ValueError, which names what is expected."""
        if self.pdu not in PDUS:
            raise ValueError(f"pdu {self.pdu!r} is none of {', '.join(PDUS)}")
        if bool(self.community_file) == bool(self.user):
            raise ValueError("one of community_file (v2c) and user (v3) is expected")
        if self.user and not (self.auth_file and self.priv_file):
            raise ValueError("user needs auth_file and priv_file: v3 is only used with both")
        if len({one.id for one in self.meters}) < len(self.meters):
            raise ValueError("each of several meters needs an id of its own")


Ask = Callable[[list[str]], Mapping[str, object]]
"""Asks a unit for these OIDs; what it does not have is not in the answer. Raises NotFed."""


class Link:
    """The way to one PDU: a socket that is kept until it fails, since a unit that restarted is another SNMP engine."""

    def __init__(self, connect: Callable[[], Any], errors: Any) -> None:
        """`connect` makes a session of gufo-snmp, and `errors` is its module."""
        self._connect = connect
        self._errors = errors
        self._session: Any = None

    def ask(self, oids: list[str]) -> dict[str, object]:
        """What the unit has of these. Raises NotFed after `TRIES` tries."""
        for left in reversed(range(TRIES)):
            try:
                return self._ask_once(oids)
            except TimeoutError as error:
                self._session = None
                if not left:
                    raise NotFed("timeout", "no answer: unreachable, or it knows no such community or user") from error
            except self._errors.SnmpAuthError as error:
                self._session = None
                raise NotFed("permission", "SNMP: user or passphrase is wrong, or not allowed") from error
            except (self._errors.SnmpError, OSError, RuntimeError, ValueError) as error:
                self._session = None
                raise NotFed("snmp_failed", f"SNMP: {error or type(error).__name__}") from error
        raise AssertionError("the last try returns or raises")

    def _ask_once(self, oids: list[str]) -> dict[str, object]:
        try:
            if self._session is None:
                self._session = self._connect()
            answers: dict[str, object] = {}
            for start in range(0, len(oids), MOST_OIDS):
                answers.update(self._session.get_many(oids[start : start + MOST_OIDS]))
        except BlockingIOError as error:
            # What the v3 handshake of gufo-snmp raises when its time is up.
            raise TimeoutError from error
        return answers


class Watch:
    """Tells whether the time that a unit put on a value still moves."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._stamp = ""
        self._since_ns = 0

    def check(self, stamp: str) -> None:
        """Raises NotFed for a value that is stale. A stamp of 0 tells nothing."""
        if stamp != self._stamp or stamp in ("", "0"):
            self._stamp, self._since_ns = stamp, self._now_ns()
        elif self._now_ns() - self._since_ns > STALE_NS:
            raise NotFed("stale", f"the unit has not measured for {ns_to_s(self._now_ns() - self._since_ns):.0f} s")


class SnmpSource:
    """All that is fed by these units; each unit is asked once a period, one after the other."""

    def __init__(
        self, config: SnmpConfig, units: dict[tuple[str, int], Ask], now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Raises SourceUnavailable where no unit answers."""
        self.period_ns = s_to_ns(config.period_s)
        self._pdu = PDUS[config.pdu]
        self._units = units
        self._inputs = config.meters
        self._watches = {feed: Watch(now_ns) for one in config.meters for feed in one.feeds}
        oids: dict[tuple[str, int], list[str]] = {place: [] for place in units}
        for feed in self._watches:
            oids[_place(feed)] += self._pdu.oids(feed.outlet)
        self._oids = {place: list(dict.fromkeys(wanted)) for place, wanted in oids.items()}
        requests = sum(-(-len(wanted) // MOST_OIDS) for wanted in self._oids.values())
        self.deadline_ns = s_to_ns(TRIES * ANSWER_S * requests + 1)
        first = self._feeds()
        if all(isinstance(found, NotFed) for found in first.values()):
            feed, found = next(iter(first.items()))
            assert isinstance(found, NotFed)
            mend = "let this host reach UDP port 161 of the unit, and check outlet, community or user"
            raise SourceUnavailable(found.code, f"{feed.host}: {found.detail}", mend)
        self.declares: tuple[Meter | Engine, ...] = tuple(
            meter for one in config.meters for meter in _meters(one, config, self._pdu, first)
        )

    def read(self) -> list[Reading]:
        """Every meter once."""
        feeds = self._feeds()
        ids = {meter.id for meter in self.declares}
        return [reading for one in self._inputs for reading in _readings(one, feeds) if _subject(reading) in ids]

    def _feeds(self) -> dict[Feed, Fed | NotFed]:
        answers = {place: _tried(ask, self._oids[place]) for place, ask in self._units.items()}
        return {feed: self._fed(feed, answers[_place(feed)]) for feed in self._watches}

    def _fed(self, feed: Feed, answers: Mapping[str, object] | NotFed) -> Fed | NotFed:
        if isinstance(answers, NotFed):
            return answers
        try:
            found = fed(self._pdu, feed.outlet, answers)
            self._watches[feed].check(found.stamp)
        except NotFed as error:
            return _bare(error)
        return found


def _tried(ask: Ask, oids: list[str]) -> Mapping[str, object] | NotFed:
    try:
        return ask(oids)
    except NotFed as error:
        return _bare(error)


def _bare(error: NotFed) -> NotFed:
    # With its traceback it would keep the session, and so the socket, that failed.
    return NotFed(error.code, error.detail)


def _place(feed: Feed) -> tuple[str, int]:
    return feed.host, feed.port


def _subject(reading: Reading) -> str:
    return (
        reading.subject if isinstance(reading, Failure) else reading.meter if isinstance(reading, MeterReading) else ""
    )


def _counter_id(one: Input) -> str:
    return f"{one.id}/energy"


def _readings(one: Input, feeds: Mapping[Feed, Fed | NotFed]) -> list[Reading]:
    """Power and counter of one input: the sum of its feeds, or why there is none."""
    told: list[Fed] = []
    for feed in one.feeds:
        found = feeds[feed]
        if isinstance(found, NotFed):
            detail = f"{feed.host} outlet {feed.outlet}: {found.detail}"
            return [Failure(subject=name, code=found.code, detail=detail) for name in (one.id, _counter_id(one))]
        told.append(found)
    power_mw = sum(found.power_mw for found in told)
    if not power_mw:
        # One of two redundant feeds may carry nothing; all of them together feed a machine that runs.
        detail = "the outlets give 0 W: is it these that feed the server?"
        return [Failure(subject=name, code="no_value", detail=detail) for name in (one.id, _counter_id(one))]
    ppm = round((one.share or 1) * WHOLE)
    return [MeterReading(meter=one.id, power_mw=power_mw * ppm // WHOLE), _counted(one, told, power_mw)]


def _counted(one: Input, told: list[Fed], power_mw: int) -> Reading:
    counters = [found.counter_uj for found in told if found.counter_uj is not None]
    if len(counters) < len(told):
        return Failure(subject=_counter_id(one), code="no_value", detail="an outlet does not tell its energy")
    epoch = "|".join(found.since for found in told)
    return MeterReading(meter=_counter_id(one), counter_uj=sum(counters), power_mw=power_mw, epoch=epoch)


def _meters(one: Input, config: SnmpConfig, pdu: Pdu, first: Mapping[Feed, Fed | NotFed]) -> list[Meter]:
    """The meter of the power and, where every feed counts energy, that of the counter."""
    device = "+".join(sorted(f"{feed.host.lower()}:{feed.port}/{feed.outlet}" for feed in one.feeds))
    bound_mw = w_to_mw(one.max_w) or pdu.max_mw * len(one.feeds)
    power = Meter(
        id=one.id,
        kind="enclosure" if one.enclosure and one.share is None else "server",
        grade="integrated" if one.share is None else "modelled",
        sensor_class="platform" if one.share is None else "modelled",
        contains=PARTS,
        device=f"pdu:{device}",
        refresh_ns=REFRESH_NS,
        period_ns=s_to_ns(config.period_s),
        max_power_mw=bound_mw if one.share is None else round(bound_mw * one.share),
        current="ac",
        basis="" if one.share is None else f"{one.share:g} of what {device} feeds, as declared",
    )
    told = [found for feed in one.feeds if isinstance(found := first[feed], Fed)]
    if one.share is not None or len(told) < len(one.feeds) or any(found.counter_uj is None for found in told):
        return [power]
    step_uj = sum(found.step_uj for found in told)
    # The counter has a new value when a step is full, which takes longer the coarser it is.
    refresh_ns = max(REFRESH_NS, uj_over_mw_to_ns(step_uj, bound_mw))
    counter = msgspec.structs.replace(
        power, id=_counter_id(one), grade="counter", resolution_uj=step_uj, refresh_ns=refresh_ns
    )
    return [power, counter]


def _secret(file: str, shortest: int = 1) -> str:
    """What a file holds alone. Raises ConfigError, which never tells it."""
    try:
        secret = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(file, "", f"the secret cannot be read: {reason}") from None
    if len(secret) < shortest or not re.fullmatch(r"[^\r\n]+", secret):
        raise ConfigError(file, "", f"expected one line of {shortest} characters or more")
    return secret


def _credentials(config: SnmpConfig, snmp: Any) -> Callable[[], dict[str, Any]]:
    """Makes what a session is opened with; a session changes the keys that it is given. Raises ConfigError."""
    if config.community_file:
        community = _secret(config.community_file)
        return lambda: {"community": community}
    auth, priv = (_secret(file, SHORTEST_PASSPHRASE).encode() for file in (config.auth_file, config.priv_file))
    auth_kind, priv_kind = getattr(snmp, AUTH[config.auth]), getattr(snmp, PRIV[config.priv])
    return lambda: {"user": snmp.User(config.user, auth_key=auth_kind(auth), priv_key=priv_kind(priv))}


def _connected(sync: Any, place: tuple[str, int], credentials: Callable[[], dict[str, Any]]) -> Any:
    """A session of gufo-snmp with the unit there. Raises OSError, and what gufo-snmp raises."""
    found = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)
    session = sync.SnmpSession(found[0][4][0], place[1], timeout=ANSWER_S, **credentials())
    session.refresh()
    return session


def opened(config: SnmpConfig, now_ns: Callable[[], int] = time.monotonic_ns) -> Source:
    """The source, with its way to each unit. Raises ConfigError and SourceUnavailable."""
    try:
        snmp, sync = importlib.import_module("gufo.snmp"), importlib.import_module("gufo.snmp.sync")
    except ImportError as error:
        mend = "pip install 'joulefleet[snmp]'"
        raise SourceUnavailable("package_missing", "the package gufo-snmp is not installed", mend) from error
    credentials = _credentials(config, snmp)
    places = sorted({_place(feed) for one in config.meters for feed in one.feeds})
    links = {place: Link(partial(_connected, sync, place, credentials), snmp) for place in places}
    return SnmpSource(config, {place: link.ask for place, link in links.items()}, now_ns)


def open(table: dict[str, Any]) -> Source:
    """The outlets that feed this server.

    Raises ConfigError, and SourceUnavailable where the package is missing or no unit answers.
    """
    return opened(typed(table, SnmpConfig, "snmp"))
