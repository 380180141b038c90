"""All windows behind a figure gone through once: their sums, their meters and versions, and which are worth a look."""

from collections import Counter
from collections.abc import Iterator
from heapq import heappush, heappushpop
from itertools import count

import msgspec

from joulefleet.grid import HOUR_NS, floor_to
from joulefleet.topology import topology
from joulefleet.window import MeterWindow, Window
from joulefleet_collector.account.layout import Layout
from joulefleet_collector.account.obstacles import obstacles
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.explain.scope import Wanted, add
from joulefleet_collector.explain.seen import Fields, LayoutOf, Seen, Spread, seen_at, stage_of
from joulefleet_collector.explain.story import Role, Story, roles, story
from joulefleet_collector.explain.versions import Versions

MAX_OBSTACLES = 10_000
"""Different obstacles that are told apart."""


class MeterSums(msgspec.Struct, kw_only=True):
    """One meter of one server and timeline over all windows of the figure."""

    server: str
    timeline: str
    meter: str
    role: Role
    kind: str
    grade: str
    sensor_class: str
    basis: str
    calibration: str
    gain_ppm: int
    first_uj: int
    last_uj: int
    energy_uj: int = 0
    charged_uj: int = 0
    late_uj: int = 0
    rejected_uj: int = 0
    covered_ns: int = 0
    window_ns: int = 0
    jumps: int = 0
    """Windows of which the first raw counter is not the last one of the window before."""
    gaps_ns: dict[str, int] = {}
    states: set[str] = set()

    def add(self, one: MeterWindow, step_ns: int, charged_uj: int) -> None:
        """One window more, in the order of time."""
        self.jumps += bool(self.window_ns) and one.first_uj != self.last_uj
        self.last_uj = one.last_uj
        self.energy_uj += one.energy_uj
        self.charged_uj += charged_uj
        self.late_uj += one.late_uj
        self.rejected_uj += one.rejected_uj
        self.covered_ns += one.covered_ns
        self.window_ns += step_ns
        self.states |= set(one.states)
        for code, gap_ns in one.gaps_ns.items():
            self.gaps_ns[code] = self.gaps_ns.get(code, 0) + gap_ns


class Hindrance(msgspec.Struct, frozen=True, order=True):
    """What kept windows from pairing: the server, the sort of obstacle, its subject, and why time of it is missing."""

    server: str
    code: str
    subject: str
    reasons: str


class Excluded(msgspec.Struct, frozen=True, order=True):
    """A meter of a server whose energy is not in the boundary's sum, and why (`topology.LeftOut`)."""

    server: str
    meter: str
    code: str
    of: str


class Tally:
    """Adds windows up; what it holds is bounded by servers, meters and hours, not by windows."""

    def __init__(self, wanted: Wanted, policy: Policy, layout: LayoutOf, windows: int) -> None:
        """`windows` of each sort are kept to be told in full."""
        self._wanted, self._policy, self._layout = wanted, policy, layout
        self._kept = _Kept(windows)
        self.windows = 0
        self.unpaired = 0
        self.servers: set[str] = set()
        self.steps_ns: set[int] = set()
        self.by_hour: dict[int, Fields] = {}
        """Sums of usage fields by start of the hour."""
        self.energy_uj = 0
        self.spread = Spread(0.0, 0.0, 0.0)
        self.meters: dict[tuple[str, int, str], MeterSums] = {}
        self.hindrances: Counter[Hindrance] = Counter()
        self.elsewhere: Counter[str] = Counter()
        """Windows of the figure's engines whose meters do not tell its boundary, by server."""
        self.buckets_uj: Counter[str] = Counter()
        """Where all energy of the boundary went in these windows, other engines' included."""
        self.left_out: set[Excluded] = set()
        self._laid_out: dict[tuple[str, int], Layout] = {}
        self.versions = Versions()

    def add(self, window: Window) -> None:
        """One window more; each server's in the order of time."""
        stage = stage_of(window, self._wanted, self._policy, self._layout)
        if stage is None:
            return
        seen = seen_at(stage, self._wanted)
        if seen is None:
            self.elsewhere[window.server] += 1
            return
        self._sum(seen)
        self._meters(seen)
        self.versions.add(seen)
        self._kept.offer(seen, self._odd(seen))

    def _sum(self, seen: Seen) -> None:
        window = seen.stage.window
        self.windows += 1
        self.servers.add(window.server)
        self.steps_ns.add(window.step_ns)
        self.energy_uj += seen.energy_uj
        self.spread = Spread(*map(sum, zip(self.spread, seen.spread(), strict=True)))
        add(self.by_hour.setdefault(floor_to(window.start_ns, HOUR_NS), {}), seen.fields)
        for term in seen.books.terms:
            self.buckets_uj[term.bucket] += term.energy_uj

    def _meters(self, seen: Seen) -> None:
        window, charged = seen.stage.window, seen.charged_by_meter_uj()
        for one, role in roles(seen):
            key = (window.server, window.timeline, one.meter.id)
            if key not in self.meters:
                self.meters[key] = _of(one, role, window)
            self.meters[key].add(one, window.step_ns, charged.get(one.meter.id, 0) if role == "sum" else 0)
        # Declarations stay, and their layout is made once and remembered: what is left out of it is asked for once.
        key_of_layout = (window.server, id(seen.stage.layout))
        if key_of_layout not in self._laid_out:
            self._laid_out[key_of_layout] = seen.stage.layout
            self._leave_out(seen)

    def _leave_out(self, seen: Seen) -> None:
        window, boundary = seen.stage.window, seen.books.cover.boundary
        for one in topology(seen.stage.scene.declared, window.step_ns).left_out:
            if one.boundary in (boundary, ""):
                self.left_out.add(Excluded(window.server, one.meter, one.code, one.of))

    def _odd(self, seen: Seen) -> tuple[str, ...]:
        """What is odd about this window, in codes; the pairing is noted."""
        found = []
        unpaired = {part.engine for part in seen.stage.parts} - seen.books.paired_ns.keys()
        if unpaired:
            self.unpaired += 1
            found.append("unpaired")
            for number in sorted(unpaired):
                self._hinder(seen, number)
        return (*found, *oddities(seen))

    def _hinder(self, seen: Seen, number: int) -> None:
        for one in obstacles(number, seen.books, seen.stage.scene):
            reasons = ", ".join(sorted(one.gaps_s, key=lambda code: -one.gaps_s[code]))
            hindrance = Hindrance(seen.stage.window.server, one.code, one.subject, reasons)
            if hindrance in self.hindrances or len(self.hindrances) < MAX_OBSTACLES:
                self.hindrances[hindrance] += 1

    def stories(self) -> list[Story]:
        """The first windows, the largest ones, and the first of each way of being odd, in the order of time."""
        return list(self._kept.stories())


def oddities(seen: Seen) -> Iterator[str]:
    """Codes of what is odd about the boundary's meters and the figure's engines, pairing apart."""
    for one, _ in roles(seen):
        yield from one.states
        yield from (code for code in one.gaps_ns)
        if one.late_uj:
            yield "late"
        if one.rejected_uj:
            yield "rejected"
    engines = [seen.stage.scene.engines[number] for number in {part.engine for part in seen.stage.parts}]
    if any(engine.restarts for engine in engines):
        yield "restarted"


def _of(one: MeterWindow, role: Role, window: Window) -> MeterSums:
    declared = one.meter
    return MeterSums(
        server=window.server,
        timeline=f"{window.timeline:08x}",
        meter=declared.id,
        role=role,
        kind=declared.kind,
        grade=declared.grade,
        sensor_class=declared.sensor_class,
        basis=declared.basis,
        calibration=declared.calibration,
        gain_ppm=declared.gain_ppm,
        first_uj=one.first_uj,
        last_uj=one.last_uj,
    )


class _Kept:
    """The windows that will be told in full, so many of each sort."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._number = count()
        self._first: list[tuple[int, int, Seen]] = []
        self._largest: list[tuple[int, int, Seen]] = []
        self._odd: dict[tuple[str, ...], Seen] = {}

    def offer(self, seen: Seen, odd: tuple[str, ...]) -> None:
        """Keep it as long as it is one of them."""
        number = next(self._number)
        self._push(self._first, (-seen.stage.window.start_ns, -number, seen))
        self._push(self._largest, (seen.energy_uj, -number, seen))
        codes = tuple(sorted(set(odd)))
        if codes and len(self._odd) < self._most:
            self._odd.setdefault(codes, seen)

    def _push(self, heap: list[tuple[int, int, Seen]], entry: tuple[int, int, Seen]) -> None:
        if len(heap) < self._most:
            heappush(heap, entry)
        elif heap:
            heappushpop(heap, entry)

    def stories(self) -> Iterator[Story]:
        sorts = [
            *((seen, ("first",)) for *_, seen in sorted(self._first, reverse=True)),
            *((seen, ("largest",)) for *_, seen in sorted(self._largest, reverse=True)),
            *((seen, codes) for codes, seen in self._odd.items()),
        ]
        told: dict[int, tuple[Seen, list[str]]] = {}
        for seen, codes in sorts:
            told.setdefault(id(seen), (seen, []))[1].extend(codes)
        for seen, listed_as in sorted(told.values(), key=lambda one: one[0].stage.window.start_ns):
            yield story(seen, listed_as)
