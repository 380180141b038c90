"""The simulated servers of a soak, who hosts them, and what they truly used between two instants."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import msgspec

from joulefleet.grid import HOUR_NS, floor_to
from joulefleet.reading import Counts
from joulefleet.units import NS_PER_S, ns_to_s, uj_to_j
from joulefleet.window import Window, Work
from joulefleet_agent.simulate.catalogue import Deployment, Hardware, Model
from joulefleet_agent.simulate.closed import done, state_at
from joulefleet_agent.simulate.roster import SimServer, roster
from joulefleet_agent.simulate.scenario import Scenario, check

STEP_NS = NS_PER_S
"""Length of a window, and time between readings."""
WORK = ("requests_ok", "prompt_tokens", "output_tokens")
RUN_FILE = "run.json"
Place = tuple[str, str]
"""Server and boundary."""


class Sums(msgspec.Struct):
    """What was used and done at one boundary of one server."""

    windows: float = 0
    joules: float = 0.0
    requests_ok: float = 0
    prompt_tokens: float = 0
    output_tokens: float = 0


class Host(msgspec.Struct, frozen=True):
    """One process, the agents that it hosts, and the collectors that they are told."""

    name: str
    urls: tuple[str, ...]
    servers: tuple[str, ...]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What the processes of one soak have to know."""

    seed: int
    begin_ns: int
    """The first reading."""
    end_ns: int
    """The last one."""
    hosts: tuple[Host, ...]

    def write(self, folder: Path) -> None:
        """Put it where the hosts find it."""
        (folder / RUN_FILE).write_bytes(msgspec.json.encode(self))

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """As it was written."""
        return msgspec.json.decode((folder / RUN_FILE).read_bytes(), type=cls)

    def servers(self) -> dict[str, SimServer]:
        """All simulated servers by name."""
        return fleet(self.seed, sum(len(host.servers) for host in self.hosts), self.begin_ns)


def fleet(seed: int, number: int, begin_ns: int) -> dict[str, SimServer]:
    """So many servers of three kinds, small ones, whose every joule and token is counted; one kind has two tenants."""
    begin = datetime.fromtimestamp(floor_to(begin_ns, HOUR_NS) // NS_PER_S, UTC)
    scenario = Scenario(
        name="soak",
        seed=seed,
        servers=number,
        begin=begin,
        step_s=ns_to_s(STEP_NS),
        period_s=ns_to_s(STEP_NS),
        hardware=(_small("SIM-A2", 700.0), _small("SIM-B2", 350.0)),
        models=(Model(name="sim-8b"), Model(name="sim-70b", j_per_output_token=0.8)),
        deployments=(
            Deployment(pool="chat", hardware="SIM-A2", model="sim-70b", weight=3.0),
            Deployment(pool="chat", hardware="SIM-B2", model="sim-8b", weight=3.0),
            Deployment(pool="small", hardware="SIM-B2", model="sim-8b", tenants={"red": 2.0, "blue": 1.0}),
        ),
    )
    check(scenario, "soak")
    return {server.name: server for server in roster(scenario)}


def _small(name: str, board_max_w: float) -> Hardware:
    return Hardware(name=name, boards=2, board_max_w=board_max_w, cpu_packages=1, dram_domains=1)


def truth(server: SimServer, from_ns: int, until_ns: int) -> dict[Place, Sums]:
    """What this server used and did between two instants, by boundary: the physics, whoever may have seen it."""
    before, after = state_at(server, from_ns), state_at(server, until_ns)
    used_uj = [b - a for a, b in zip(before.energies_uj, after.energies_uj, strict=True)]
    work = _work(done(before.counts, after.counts).values())
    return {
        (server.name, boundary): Sums(
            (until_ns - from_ns) // STEP_NS, uj_to_j(sum(used_uj[place] for place in places)), **work
        )
        for boundary, places in server.chassis.boundaries().items()
    }


def told(windows: Sequence[Window]) -> dict[Place, Sums]:
    """The sums of the windows of one agent with the source `simulated`, which has boards and a meter of the server."""
    works = [work for window in windows for engine in window.engines for work in engine.work]
    counts = _work([part for work in works for part in _parts(work)])
    return {
        (windows[0].server, boundary): Sums(len(windows), uj_to_j(_used_uj(windows, boundary)), **counts)
        for boundary in ("accelerator", "server")
    }


def holes(windows: Sequence[Window]) -> list[str]:
    """Where the windows of one agent, in their order, do not go on from each other."""
    found = []
    for before, after in pairwise(windows):
        totals = zip(before.meters, after.meters, strict=True)
        if after.start_ns != before.end_ns or any(one.last_uj != next_.first_uj for one, next_ in totals):
            found.append(f"{after.server}: the window of {after.start_ns} does not go on from {before.start_ns}")
    return found


def _used_uj(windows: Sequence[Window], kind: str) -> int:
    return sum(one.energy_uj + one.late_uj for each in windows for one in each.meters if one.meter.kind == kind)


def _parts(work: Work) -> tuple[Counts, Counts]:
    return work.counts, work.late


def _work(several: Iterable[Counts]) -> dict[str, int]:
    several = list(several)
    return {name: sum(getattr(counts, name) or 0 for counts in several) for name in WORK}
