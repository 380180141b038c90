"""A server's input that tells its energy once a minute beside boards that tell it each second, one of which hangs."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec
import pytest

from fixtures.collectors import Collector
from fixtures.virtual_agent import AgentOf, Clock, Part, each_s
from joulefleet.describe import Engine, Meter
from joulefleet.grid import floor_to
from joulefleet.reading import MeterReading, Reading
from joulefleet.units import NS_PER_S, uj_to_j
from joulefleet.window import MeterWindow
from joulefleet_plugins.meters.simulated import SERVER, SimulatedConfig, SimulatedServer

MINUTE_NS = 60 * NS_PER_S
PHASE_NS = 37 * NS_PER_S
"""The slow meter makes its values this long after each minute: in the middle of windows."""
DEADLINE_S = 10
HANGS_S = range(595, 685)
"""Seconds in which the board does not answer: 90 of them, over two edges of windows."""
SECONDS = 3_000
CONFIG = SimulatedConfig(boards=8)
HANGING = "sim-board7"
BOARDS = {f"sim-board{number}" for number in range(8)}


class OncePerMinute:
    """The simulated server's input as a slow meter shows it: read each second, moving once a minute."""

    def __init__(self, clock: Clock) -> None:
        self._whole = Part(
            SimulatedServer(CONFIG, lambda: floor_to(clock() - PHASE_NS, MINUTE_NS) + PHASE_NS), {SERVER}
        )
        (meter,) = self._whole.declares
        self.declares: tuple[Meter | Engine, ...] = (msgspec.structs.replace(meter, refresh_ns=MINUTE_NS),)
        self.period_ns = self._whole.period_ns
        self.deadline_ns = self._whole.deadline_ns

    def read(self) -> Sequence[Reading]:
        """The value that was made last, seen now."""
        (seen,) = self._whole.read()
        return [msgspec.structs.replace(seen, at_ns=0)]


class Watch:
    """Fifty minutes of the server: what each meter said, and what was stored."""

    def __init__(self, agent_of: AgentOf, hosted: Collector, clock: Clock) -> None:
        self.said_uj: dict[str, list[int]] = {}
        self.began_ns = clock()
        server = SimulatedServer(CONFIG, clock)
        agent = agent_of("a")
        steady = BOARDS - {HANGING} | {one.id for one in server.declares if isinstance(one, Engine)}
        agent.open(input=OncePerMinute(clock), boards=Part(server, steady), hanging=Part(server, {HANGING}))
        for second in each_s(clock, SECONDS):
            self._note(agent.read("input"))
            self._note(agent.read("boards"))
            if second not in HANGS_S:
                self._note(agent.read("hanging"))
            elif second >= HANGS_S.start + DEADLINE_S:
                agent.hang("hanging")
            agent.tick()
        agent.finish()
        self.windows = hosted.windows()
        self.truth = server.truth

    def _note(self, readings: Iterable[Reading]) -> None:
        for one in readings:
            if isinstance(one, MeterReading) and one.counter_uj is not None:
                self.said_uj.setdefault(one.meter, []).append(one.counter_uj)

    def of(self, meter: str) -> list[MeterWindow]:
        """The meter's accounts, window by window."""
        return [one for window in self.windows for one in window.meters if one.meter.id == meter]


@pytest.fixture
def watch(agent_of: AgentOf, hosted: Collector, clock: Clock) -> Watch:
    return Watch(agent_of, hosted, clock)


def test_every_meter_telescopes_over_the_stored_windows(watch: Watch) -> None:
    assert watch.said_uj.keys() == BOARDS | {SERVER}
    for meter, said_uj in watch.said_uj.items():
        stored = watch.of(meter)
        # What the slow meter said first was up to a minute old: its joules count from where it first moved.
        first_uj = next(value for value in said_uj if value != said_uj[0]) if meter == SERVER else said_uj[0]
        assert sum(one.energy_uj + one.late_uj for one in stored) == said_uj[-1] - first_uj
        assert stored[-1].last_uj - stored[0].first_uj == said_uj[-1] - first_uj
        assert all(one.last_uj == after.first_uj for one, after in pairwise(stored))
    assert watch.of(SERVER)[0].gaps_ns == {"settling": PHASE_NS}


def test_a_board_that_hung_is_missed_and_told_late(watch: Watch) -> None:
    """Its window closes without it; what it used then is told in the next one, which waited for the slow meter."""
    stored = watch.of(HANGING)
    edge_ns = watch.began_ns + 10 * MINUTE_NS
    told = [(one.covered_ns // NS_PER_S, one.interpolated_ns // NS_PER_S, one.gaps_ns) for one in stored]
    assert told[8:12] == [(60, 0, {}), (54, 0, {"hung": 6 * NS_PER_S}), (60, 60, {}), (60, 25, {})]
    assert (stored[10].late_from_ns, stored[10].late_to_ns) == (edge_ns - 6 * NS_PER_S, edge_ns)
    neighbour = watch.of("sim-board0")
    # The late joules lie on a straight line over the 91 s between the two readings.
    assert stored[9].energy_uj + stored[10].late_uj == pytest.approx(neighbour[9].energy_uj, rel=1e-3)
    assert [one.late_uj > 0 for one in stored] == [place == 10 for place in range(len(stored))]
    assert not any(one.late_uj for one in neighbour)


def test_the_report_stands_at_the_slow_meters_boundary(watch: Watch, hosted: Collector) -> None:
    answer = hosted.report("--by", "server")
    rows = {row["boundary"]: row for row in answer["rows"]}
    ledgers = {entry["boundary"]: entry for entry in answer["ledger"]}
    assert rows["server"]["coverage"] >= 0.95
    assert rows["server"]["status"] == "ok"
    assert rows["accelerator"]["coverage"] == pytest.approx(49 / 50)
    assert {entry["residual_uj"] for entry in ledgers.values()} == {0.0}
    late_j = uj_to_j(sum(one.late_uj for one in watch.of(HANGING)))
    assert ledgers["accelerator"]["late_j"] == pytest.approx(late_j)
    truth = watch.truth(watch.began_ns, watch.began_ns + SECONDS * NS_PER_S)
    whole_j = ledgers["accelerator"]["metered_j"] + ledgers["accelerator"]["late_j"]
    assert whole_j == pytest.approx(truth.accelerator_j, rel=1e-9)
    # The slow meter knows the first and the last minute only in part.
    paired = watch.truth(watch.began_ns + MINUTE_NS, watch.began_ns + 49 * MINUTE_NS)
    assert rows["server"]["output_tokens"] == pytest.approx(paired.output_tokens, abs=1)
    assert rows["server"]["energy_j"] == pytest.approx(paired.server_j, rel=1e-3)
