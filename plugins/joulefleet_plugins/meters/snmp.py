"""A server's input, or a whole enclosure's, as the outlets of its power distribution units (PDUs) tell it by SNMP.

Asks SNMP v2c or v3 agents for the objects in `snmp_pdus.PDUS`, through the package `gufo-snmp`.

A server with redundant supplies is fed by several outlets: they make one meter, their sum, which is absent as soon as
one of them is. The energy counters of most units step by 1 Wh or 0.1 kWh (360 kJ), too coarse for short windows, so
that a counter is a meter of its own beside the power, of the same device: accounting takes the better one and has the
other as a cross-check.
"""

import importlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from joulefleet import (
    WHOLE,
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
from joulefleet.secret import read_secret
from joulefleet.units import ns_to_s, s_to_ns, uj_over_mw_to_ns, w_to_mw
from joulefleet_plugins.meters.snmp_link import ANSWER_S, MOST_OIDS, TRIES, Ask, Link, connected
from joulefleet_plugins.meters.snmp_pdus import PDUS, Fed, NotFed, Pdu, fed

TRIED = "faithful fake"
PARTS: tuple[Kind, ...] = ("accelerator", "module", "cpu_package", "cpu_core", "dram", "psys", "host")
STALE_REFRESHES = 4
STALE_NS = s_to_ns(60)
"""A value is stale once the time that its unit put on it has stood still for so long, or for STALE_REFRESHES."""
MENDS = {
    "timeout": "let this host reach UDP port {feed.port} of {feed.host}, and check community or user",
    "permission": "check user, auth and priv, and their files, against the unit's own page",
    "snmp_failed": "correct the feed's host and port, and ask {feed.host} by snmpget",
}
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
    """Part of an enclosure that is this server's, as declared; then it is told at `server` too, as `modelled`."""


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


Place = tuple[str, int]
"""Host and port of a unit."""


class Watch:
    """Tells how long the time that a unit put on a value has stood still."""

    def __init__(self, now_ns: Callable[[], int], refresh_ns: int) -> None:
        self._now_ns = now_ns
        self._stale_ns = max(STALE_NS, STALE_REFRESHES * refresh_ns)
        self._stamp = ""
        self._since_ns = 0

    def age_ns(self, stamp: str) -> int:
        """Since when this stamp has been seen. A stamp of 0 tells nothing. Raises NotFed for a value that is stale."""
        now_ns = self._now_ns()
        if stamp != self._stamp or stamp in ("", "0"):
            self._stamp, self._since_ns = stamp, now_ns
        if now_ns - self._since_ns > self._stale_ns:
            raise NotFed("stale", f"the unit has not measured for {ns_to_s(now_ns - self._since_ns):.0f} s")
        return now_ns - self._since_ns


class Ids(NamedTuple):
    """The ids of what one input is told by."""

    whole: str
    """The sum of the feeds."""
    counter: str
    share: str = ""

    @classmethod
    def of(cls, one: Input) -> "Ids":
        """The input's own id is that of the meter which counts at `server`."""
        counter = f"{one.id}/energy"
        return cls(one.id, counter) if one.share is None else cls(f"{one.id}/enclosure", counter, one.id)


class SnmpSource:
    """All that is fed by these units; each unit is asked once a period, one after the other."""

    def __init__(
        self, config: SnmpConfig, units: Mapping[Place, Ask], now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Raises SourceUnavailable where no unit answers."""
        self.period_ns = s_to_ns(config.period_s)
        self.declares: tuple[Meter | Engine, ...] = ()
        self._config = config
        self._pdu = PDUS[config.pdu]
        self._units = units
        self._watches = {feed: Watch(now_ns, self._pdu.refresh_ns) for one in config.meters for feed in one.feeds}
        self._steps: dict[Feed, int] = {}
        """Of the counters of those feeds that were seen to have one."""
        oids: dict[Place, list[str]] = {place: [] for place in units}
        for feed in self._watches:
            oids[_place(feed)] += self._pdu.oids(feed.outlet)
        self._oids = {place: list(dict.fromkeys(wanted)) for place, wanted in oids.items()}
        requests = sum(-(-len(wanted) // MOST_OIDS) for wanted in self._oids.values())
        self.deadline_ns = s_to_ns(TRIES * ANSWER_S * requests + 1)
        first = self._feeds()
        if all(isinstance(found, NotFed) for found in first.values()):
            feed, found = next(iter(first.items()))
            assert isinstance(found, NotFed)
            mend = MENDS.get(found.code, "").format(feed=feed)
            raise SourceUnavailable(found.code, f"{feed.host}: {found.detail}", mend)

    def read(self) -> list[Reading]:
        """Every meter once."""
        feeds = self._feeds()
        ids = {meter.id for meter in self.declares}
        return [told for one in self._config.meters for told in _readings(one, feeds) if _subject(told) in ids]

    def _feeds(self) -> dict[Feed, Fed | NotFed]:
        answers = {place: _tried(ask, self._oids[place]) for place, ask in self._units.items()}
        feeds = {feed: self._fed(feed, answers[_place(feed)]) for feed in self._watches}
        self._declare(feeds)
        return feeds

    def _fed(self, feed: Feed, answers: Mapping[str, object] | NotFed) -> Fed | NotFed:
        if isinstance(answers, NotFed):
            return answers
        try:
            found = fed(self._pdu, feed.outlet, answers)
            return found._replace(age_ns=self._watches[feed].age_ns(found.stamp))
        except NotFed as error:
            return error

    def _declare(self, feeds: Mapping[Feed, Fed | NotFed]) -> None:
        """What counts energy is known once it has told it; from then on it is missed where it does not."""
        told = {feed: found for feed, found in feeds.items() if isinstance(found, Fed)}
        steps = self._steps | {feed: found.step_uj for feed, found in told.items() if found.counter_uj is not None}
        if steps != self._steps or not self.declares:
            self._steps = steps
            self.declares = tuple(
                meter for one in self._config.meters for meter in _meters(one, self._config, self._pdu, steps)
            )


def _tried(ask: Ask, oids: list[str]) -> Mapping[str, object] | NotFed:
    try:
        return ask(oids)
    except NotFed as error:
        return error


def _place(feed: Feed) -> Place:
    return feed.host, feed.port


def _subject(told: MeterReading | Failure) -> str:
    return told.subject if isinstance(told, Failure) else told.meter


def _readings(one: Input, feeds: Mapping[Feed, Fed | NotFed]) -> list[MeterReading | Failure]:
    """All that one input tells: the sum of its feeds, or why there is none."""
    ids = Ids.of(one)
    try:
        told = _all_of(one, feeds)
    except NotFed as missing:
        return [Failure(subject=name, code=missing.code, detail=missing.detail) for name in ids if name]
    power_mw = sum(found.power_mw for found in told)
    # A sum is as old as the oldest of its parts.
    age_ns = max(found.age_ns for found in told)
    part_mw = power_mw * round((one.share or 0) * WHOLE) // WHOLE
    shared = [MeterReading(meter=ids.share, power_mw=part_mw, age_ns=age_ns)] if ids.share else []
    whole = MeterReading(meter=ids.whole, power_mw=power_mw, age_ns=age_ns)
    return [whole, *shared, _counted(ids.counter, told, whole)]


def _all_of(one: Input, feeds: Mapping[Feed, Fed | NotFed]) -> list[Fed]:
    """Every feed of an input. Raises NotFed where one is missing, or where all of them carry nothing."""
    told: list[Fed] = []
    for feed in one.feeds:
        found = feeds[feed]
        if isinstance(found, NotFed):
            raise NotFed(found.code, f"{feed.host} outlet {feed.outlet}: {found.detail}")
        told.append(found)
    if not any(found.power_mw for found in told):
        # One of two redundant feeds may carry nothing; all of them together feed a machine that runs.
        raise NotFed("no_value", "the outlets give 0 W: is it these that feed the server?")
    return told


def _counted(meter: str, told: list[Fed], whole: MeterReading) -> MeterReading | Failure:
    counters = [found.counter_uj for found in told if found.counter_uj is not None]
    if len(counters) < len(told):
        return Failure(subject=meter, code="no_value", detail="an outlet does not tell its energy")
    epoch = "|".join(found.since for found in told)
    return msgspec.structs.replace(whole, meter=meter, counter_uj=sum(counters), epoch=epoch)


def _meters(one: Input, config: SnmpConfig, pdu: Pdu, steps: Mapping[Feed, int]) -> list[Meter]:
    """The meter of the power; where every feed counts energy, that of the counter; and the declared share."""
    ids, device = Ids.of(one), "+".join(sorted(f"{feed.host.lower()}:{feed.port}/{feed.outlet}" for feed in one.feeds))
    bound_mw = w_to_mw(one.max_w) or pdu.max_mw * len(one.feeds)
    is_enclosure = one.enclosure or one.share is not None
    whole = Meter(
        id=ids.whole,
        kind="enclosure" if is_enclosure else "server",
        grade="integrated",
        sensor_class="platform",
        contains=("server", *PARTS) if is_enclosure else PARTS,
        device=f"pdu:{device}",
        refresh_ns=pdu.refresh_ns,
        period_ns=s_to_ns(config.period_s),
        max_power_mw=bound_mw,
        current="ac",
    )
    shared = [] if one.share is None else [_share(whole, ids.share, one.share)]
    step_uj = sum(steps.get(feed, 0) for feed in one.feeds)
    return [whole, *shared, *([_counter(whole, ids.counter, step_uj)] if set(one.feeds) <= steps.keys() else [])]


def _counter(whole: Meter, name: str, step_uj: int) -> Meter:
    # The counter has a new value when a step is full, which takes longer the coarser it is.
    refresh_ns = max(whole.refresh_ns, uj_over_mw_to_ns(step_uj, whole.max_power_mw))
    return msgspec.structs.replace(whole, id=name, grade="counter", resolution_uj=step_uj, refresh_ns=refresh_ns)


def _share(whole: Meter, name: str, share: float) -> Meter:
    return msgspec.structs.replace(
        whole,
        id=name,
        kind="server",
        grade="modelled",
        sensor_class="modelled",
        contains=PARTS,
        inside=whole.id,
        device="",
        max_power_mw=round(whole.max_power_mw * share),
        basis=f"{share:g} of the enclosure at {whole.device.removeprefix('pdu:')}, a declared share",
    )


def _credentials(config: SnmpConfig, snmp: Any) -> Callable[[], dict[str, Any]]:
    """Makes what a session is opened with; a session changes the keys that it is given. Raises ConfigError."""
    if config.community_file:
        community = read_secret(config.community_file)
        return lambda: {"community": community}
    auth, priv = (read_secret(file, SHORTEST_PASSPHRASE).encode() for file in (config.auth_file, config.priv_file))
    auth_kind, priv_kind = getattr(snmp, AUTH[config.auth]), getattr(snmp, PRIV[config.priv])
    return lambda: {"user": snmp.User(config.user, auth_key=auth_kind(auth), priv_key=priv_kind(priv))}


def opened(config: SnmpConfig, now_ns: Callable[[], int] = time.monotonic_ns) -> Source:
    """The source, with its way to each unit. Raises ConfigError and SourceUnavailable."""
    try:
        snmp, sync = importlib.import_module("gufo.snmp"), importlib.import_module("gufo.snmp.sync")
    except ImportError as error:
        mend = "pip install 'joulefleet[snmp]'"
        raise SourceUnavailable("package_missing", "the package gufo-snmp is not installed", mend) from error
    credentials = _credentials(config, snmp)
    places = sorted({_place(feed) for one in config.meters for feed in one.feeds})
    links = {place: Link(partial(connected, sync, place, credentials), snmp) for place in places}
    return SnmpSource(config, {place: link.ask for place, link in links.items()}, now_ns)


def open(table: dict[str, Any]) -> Source:
    """The outlets that feed this server.

    Raises ConfigError, and SourceUnavailable where the package is missing or no unit answers.
    """
    return opened(typed(table, SnmpConfig, "snmp"))
