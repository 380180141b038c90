"""Windows of a simulated server through the agent's real cutter: what its readings tell, the faults included."""

from collections.abc import Iterator

from joulefleet.window import Window
from joulefleet_agent.cutter import Cutter, CutterState
from joulefleet_agent.simulate.roster import SimServer
from joulefleet_agent.simulate.sensors import Sensors


def cut(server: SimServer, timeline: int, from_ns: int, until_ns: int) -> Iterator[Window]:
    """Read at every period of [from_ns, until_ns], an outage of the agent aside, and give each window as it closes."""
    scenario, sensors = server.scenario, Sensors(server)
    cutter = Cutter(CutterState(timeline=timeline, step_ns=scenario.step_ns), server.identity)
    cutter.declare([*(device.meter for device in server.chassis.metered), server.engine], from_ns)
    down = False
    for at_ns in range(from_ns, until_ns + 1, scenario.period_ns):
        if is_down(server, at_ns):
            down = True
            continue
        if down:
            yield from cutter.resume(at_ns)
            down = False
        cutter.feed(sensors.read(at_ns), at_ns)
        yield from cutter.close(at_ns)
    yield from cutter.finish()


def is_down(server: SimServer, at_ns: int) -> bool:
    """Whether the agent does not run at this instant."""
    return any(from_ns <= at_ns < until_ns for from_ns, until_ns in map(server.span_of, server.outages))
