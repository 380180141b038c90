"""The windows of a simulated fleet in the order of time, each server's as its readings or its course tell them.

In the fast way only the time around faults and outages goes through the cutter, since only the cutter says what they
do to windows; the meters' running totals go on from one way to the other.
"""

import heapq
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from joulefleet.grid import floor_to
from joulefleet.window import MeterWindow, Window
from joulefleet_agent.simulate.closed import closed
from joulefleet_agent.simulate.cutting import cut
from joulefleet_agent.simulate.roster import SimServer
from joulefleet_agent.simulate.scenario import Fault, Outage

STEPS_AFTER = 2
"""Windows after a fault until nothing of it is late any more."""
Span = tuple[int, int]


class Stretch(msgspec.Struct, frozen=True):
    """Time of one server in which nothing is wrong, or in which something is."""

    from_ns: int
    until_ns: int
    disturbed: bool


def groups(servers: Sequence[SimServer], fast: bool, size: int) -> Iterator[list[Window]]:
    """Windows of one server each, at most so many, ordered by the start of the first; made when they are asked for."""
    sources = [windows_of(server, fast) for server in servers]
    turns: list[tuple[int, int, list[Window]]] = [(0, place, []) for place in range(len(sources))]
    while turns:
        due_ns, place, group = heapq.heappop(turns)
        group = group or list(islice(sources[place], size))
        if group and group[0].start_ns > due_ns:
            heapq.heappush(turns, (group[0].start_ns, place, group))
        elif group:
            yield group
            heapq.heappush(turns, (group[-1].end_ns, place, []))


def windows_of(server: SimServer, fast: bool) -> Iterator[Window]:
    """All windows of one server, in order."""
    scenario = server.scenario
    if not fast:
        yield from cut(server, server.timeline("cut"), scenario.begin_ns, scenario.end_ns)
        return
    timeline, last = server.timeline("fast"), None
    for stretch in stretches(server):
        windows = _of_stretch(server, timeline, stretch, None if last is None else last.meters)
        for last in windows:  # the next stretch goes on from it
            yield last


def stretches(server: SimServer) -> Iterator[Stretch]:
    """The whole time of a server, cut where something begins or ceases to be wrong."""
    reached_ns, end_ns = server.scenario.begin_ns, server.scenario.end_ns
    for from_ns, until_ns in _disturbances(server):
        if reached_ns < from_ns:
            yield Stretch(reached_ns, from_ns, disturbed=False)
        yield Stretch(from_ns, until_ns, disturbed=True)
        reached_ns = until_ns
    if reached_ns < end_ns:
        yield Stretch(reached_ns, end_ns, disturbed=False)


def _of_stretch(
    server: SimServer, timeline: int, stretch: Stretch, before: tuple[MeterWindow, ...] | None
) -> Iterator[Window]:
    totals = None if before is None else [meter.last_uj for meter in before]
    if not stretch.disturbed:
        return closed(server, timeline, stretch.from_ns, stretch.until_ns, totals)
    return _continued(cut(server, timeline, stretch.from_ns, stretch.until_ns), totals)


def _continued(windows: Iterator[Window], totals: list[int] | None) -> Iterator[Window]:
    """Move the meters' running totals so that they go on from these; energy is a difference and stays."""
    moves: list[int] | None = None
    for window in windows:
        if totals is None:
            yield window
            continue
        if moves is None:
            moves = [total - meter.first_uj for total, meter in zip(totals, window.meters, strict=True)]
        yield msgspec.structs.replace(
            window, meters=tuple(_moved(meter, by_uj) for meter, by_uj in zip(window.meters, moves, strict=True))
        )


def _moved(meter: MeterWindow, by_uj: int) -> MeterWindow:
    return msgspec.structs.replace(meter, first_uj=meter.first_uj + by_uj, last_uj=meter.last_uj + by_uj)


def _disturbances(server: SimServer) -> list[Span]:
    """Whole windows around each fault and outage, joined where they touch, in order."""
    scenario, step_ns = server.scenario, server.scenario.step_ns
    spans = []
    troubles: list[Fault | Outage] = [*server.faults, *server.outages]
    for from_ns, until_ns in sorted(server.span_of(one) for one in troubles):
        begin_ns = max(floor_to(from_ns, step_ns) - step_ns, scenario.begin_ns)
        end_ns = min(floor_to(until_ns + step_ns - 1, step_ns) + STEPS_AFTER * step_ns, scenario.end_ns)
        if begin_ns < end_ns:
            spans.append((begin_ns, end_ns))
    joined: list[Span] = []
    for begin_ns, end_ns in spans:
        if joined and begin_ns <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end_ns, joined[-1][1]))
        else:
            joined.append((begin_ns, end_ns))
    return joined
