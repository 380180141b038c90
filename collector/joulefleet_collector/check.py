"""Proof that a store does what the collector relies on: it takes a row, gives it back, and counts it once."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing

import msgspec

from joulefleet.grid import floor_to
from joulefleet.units import NS_PER_S, bytes_to_gb, bytes_to_mb
from joulefleet.window import Window
from joulefleet_collector.agents import PROOF
from joulefleet_collector.config import CollectorConfig
from joulefleet_collector.rows import Row
from joulefleet_collector.service import influx_of, opened
from joulefleet_collector.sizing import METERS, Fleet, Size, size
from joulefleet_collector.store.store import MINUTE_NS, Accounted, Question, Store, StoreUnavailable


class Proof(msgspec.Struct, frozen=True):
    """One thing that was proved."""

    what: str
    detail: str


def prove(store: Store, place: str, now_ns: int, readable: bool) -> Iterator[Proof]:
    """Each proof as it is had. Raises StoreUnavailable, which says what does not hold and the mend."""
    store.check()
    probe = _probe(now_ns)
    if not readable:
        store.write([probe], now_ns)
        yield Proof("write", "taken")
        yield Proof("read", "not proved: the server answers no InfluxQL (read = false)")
        return
    before = _seen(store, probe)
    store.write([probe], now_ns)
    yield Proof("write", "taken")
    once = _seen(store, probe)
    if once != 1.0:
        reason = f"a row was written, and {once or 0:g} instead of 1 came back"
        raise StoreUnavailable(
            place, reason, "see its retention, its clock, and whether it is read where it is written"
        )
    yield Proof("read", "read back" if before is None else "there already, read back")
    store.write([probe], now_ns)
    twice = _seen(store, probe)
    if twice != once:
        raise StoreUnavailable(
            place, f"the row written again counts {twice or 0:g} times", "use a store that overwrites"
        )
    yield Proof("idempotency", "written again, counted once")


class Checked(msgspec.Struct, frozen=True):
    """What was proved of a store, and the room that a fleet takes in it."""

    place: str
    epoch: str
    proofs: list[Proof]
    fleet: Fleet
    size: Size


def checked(config: CollectorConfig, fleet: Fleet, environment: Mapping[str, str]) -> Checked:
    """Open the configured store and prove it. Raises StoreUnavailable or ConfigError."""
    influx = influx_of(config, environment) if config.store.kind == "influxdb" else None
    place = influx.place if influx else str(config.data_dir)
    store, _ = opened(config, environment)
    with closing(store):
        proofs = list(prove(store, place, time.time_ns(), influx is None or influx.read))
        needs = size(fleet, config.store, influx.retention_days if influx else 0.0)
        return Checked(place, store.epoch, proofs, fleet, needs)


def told(outcome: Checked) -> list[str]:
    """The outcome in lines for a person."""
    fleet, needs = outcome.fleet, outcome.size
    a_day, kept = _room(needs.bytes_per_day), _room(needs.kept_bytes)
    return [
        f"{outcome.place}, epoch {outcome.epoch}",
        *(f"  {proof.what:<12} {proof.detail}" for proof in outcome.proofs),
        f"servers {fleet.servers:,}, meters on each {METERS}, models on each {fleet.models}, step {fleet.step_s:g} s:",
        f"  {needs.windows_per_s:,.1f} windows and {needs.rows_per_s:,.0f} rows a second, {needs.series:,} series",
        f"  {a_day} a day, {kept} in all: {_kept(needs)}",
        *(f"  note: {note}" for note in needs.notes),
    ]


def _room(size: int) -> str:
    gb = bytes_to_gb(size)
    return f"{gb:,.1f} GB" if gb >= 1 else f"{bytes_to_mb(size):.1f} MB"


def _kept(needs: Size) -> str:
    if needs.kept_windows_days is None:
        return f"rows for {needs.kept_days:g} days"
    return f"windows for {needs.kept_windows_days:g} days, minutes for {needs.kept_days:g}, hours and days for a year"


def _probe(now_ns: int) -> Accounted:
    """A window of one second without meters, and the one row that it leaves: a fact, marked as simulated, of no joule.

    Its value is the second, so that no earlier proof of the same minute answers in its place.
    """
    start_ns = floor_to(now_ns, NS_PER_S)
    window = Window(server=PROOF, timeline=0, start_ns=start_ns, step_ns=NS_PER_S, pool=PROOF, simulated=True)
    tags = {"server": PROOF, "pool": PROOF, "simulated": "true", "timeline": "00000000", "step_s": "1"}
    second = f"{start_ns % MINUTE_NS // NS_PER_S:02d}"
    row = Row("facts", start_ns, {**tags, "fact": "check", "value": second}, {"seen": 1.0})
    return Accounted(window, window.encode(), [row])


def _seen(store: Store, probe: Accounted) -> float | None:
    minute_ns = floor_to(probe.window.start_ns, MINUTE_NS)
    where: dict[str, tuple[str, ...]] = {
        "server": (PROOF,),
        "fact": ("check",),
        "value": (probe.rows[0].tags["value"],),
    }
    asked = Question(kind="facts", since_ns=minute_ns, until_ns=minute_ns + MINUTE_NS, where=where, fields=("seen",))
    totals = store.ask(asked)
    return totals[0].fields.get("seen") if totals else None
