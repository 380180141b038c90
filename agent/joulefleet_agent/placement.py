"""On which boards each engine runs, by whose processes are seen there: nobody has to write it into a config.

Rules:
- An engine whose config names its devices keeps them; so does one that listens elsewhere.
- One whose processes are seen on boards (or on slices of them) has those. Several on one board share it.
- Where processes run beside it of which nobody knows whose they are, these hold a part of the board as an engine would.
- One that is not seen now stays where it was seen last: a server that is started anew is there again.
- One that was never seen has the whole server only where no process is told of at all. Where others are, an engine that
  was found stays SOMEWHERE, and has no joules: they would be those of whoever is seen. So it is until all sources were
  heard once.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from joulefleet.describe import SOMEWHERE, WHOLE, Engine, Reservation
from joulefleet.reading import MeterReading, Reading
from joulefleet_agent.processes import NOBODY, Names

Lists = Mapping[str, Mapping[str, str]]
"""By meter the processes that run on it, each with the slice in which it runs; empty where the board is not sliced."""
Placed = dict[str, tuple[Reservation, ...]]
"""Devices by engine; none means the whole server."""


def placed(
    engines: Iterable[Engine], lists: Lists, owners: Mapping[str, str], before: Placed, heard: bool = True
) -> Placed:
    """Where the engines run that do not say it themselves. `owners` tells the engine of each process, or NOBODY.

    `heard` tells whether there is no other source that may tell of processes yet.
    """
    places = _places(lists, owners)
    found: Placed = {}
    for engine in filter(may_be_placed, engines):
        its = tuple(
            Reservation(device, WHOLE // len(holders)) if NOBODY in holders else Reservation(device)
            for device, holders in sorted(places.items())
            if engine.id in holders
        )
        if its:
            found[engine.id] = its
        elif before.get(engine.id) or (engine.id in before and not heard):
            found[engine.id] = before[engine.id]
        elif heard and not any(lists.values()):
            found[engine.id] = ()
    return found


def _places(lists: Lists, owners: Mapping[str, str]) -> dict[str, set[str]]:
    """The holders of each board or slice."""
    places: dict[str, set[str]] = {}
    for meter, processes in lists.items():
        holders = {owners.get(pid, NOBODY) for pid in processes}
        if NOBODY in holders and any(processes.values()):
            # What each did on a sliced board nobody tells: it cannot be kept apart from what is known.
            continue
        for pid, part in processes.items():
            places.setdefault(part or meter, set()).add(owners.get(pid, NOBODY))
    return places


def may_be_placed(engine: Engine) -> bool:
    """Whether it runs here, and does not say on which boards."""
    untold = not engine.devices or is_found(engine)
    return bool(engine.port or engine.unit) and untold and not engine.front


def is_found(engine: Engine) -> bool:
    """Whether nobody configured it, so that nobody said where it runs."""
    return engine.devices == (Reservation(SOMEWHERE),)


def apply(engine: Engine, where: Placed) -> Engine:
    """The engine on the devices that were found for it."""
    if engine.id not in where or not may_be_placed(engine):
        return engine
    return msgspec.structs.replace(engine, devices=where[engine.id])


def with_owners(readings: Sequence[Reading], names: Names, engines: Sequence[Engine]) -> list[Reading]:
    """The readings with the engine of each process in its place, for where its number means nothing any more."""
    out: list[Reading] = []
    for one in readings:
        if isinstance(one, MeterReading) and one.processes is not None:
            owners = names.owners(one.processes, engines)
            by_owner = {owners[pid]: part for pid, part in one.processes.items()}
            out.append(msgspec.structs.replace(one, processes=by_owner))
        else:
            out.append(one)
    return out


class Placement:
    """Follows which processes run on which boards, and says where the engines are."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._lists: dict[str, dict[str, str]] = {}

    def note(self, readings: Sequence[Reading]) -> bool:
        """Take what these readings tell of processes. Whether any did."""
        telling = [one for one in readings if isinstance(one, MeterReading) and one.processes is not None]
        self._lists |= {one.meter: one.processes or {} for one in telling}
        return bool(telling)

    def where(self, engines: Sequence[Engine], before: Placed, heard: bool = True) -> Placed:
        """Where the engines run, as far as it is known; they are told as their sources declare them."""
        pids = {pid for processes in self._lists.values() for pid in processes}
        owners = self._names.owners(pids, engines) if any(map(may_be_placed, engines)) else {}
        return placed(engines, self._lists, owners, before, heard)
