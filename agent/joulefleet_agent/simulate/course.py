"""One simulated server's work and energy up to any instant: its kind's demand, bent by chance and by what changes."""

from array import array
from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from joulefleet.describe import WHOLE
from joulefleet.units import uj_over_ns_to_mw
from joulefleet_agent.simulate.demand import Amounts, Demand


class Bend(msgspec.Struct, frozen=True):
    """From an instant on, so much of the demand, at so much of its energy, both in parts per million."""

    from_ns: int
    demand_ppm: int
    energy_ppm: int


class Course:
    """Cumulative work and dynamic energy of one server from the first bend on; continuous, and never falling."""

    def __init__(self, demand: Demand, bends: Sequence[Bend]) -> None:
        self.demand = demand
        most = max(bend.demand_ppm * bend.energy_ppm for bend in bends)
        self.peak_mw = -(-demand.peak_mw * most // (WHOLE * WHOLE))
        """Power of all boards above idle that is never exceeded."""
        self._bends = bends
        # Arrays rather than objects: a fleet of a thousand servers and a month has a million bends.
        self._starts = array("q", (bend.from_ns for bend in bends))
        self._bases = [array("q", (base,)) for base in Amounts(0, 0, 0, 0)]
        for place, bend in enumerate(bends[1:]):
            for column, value in zip(self._bases, self._up_to(bend.from_ns, place), strict=True):
                column.append(value)

    def at(self, at_ns: int) -> Amounts:
        """Work and energy up to an instant, which must not be earlier than the first bend."""
        return self._up_to(at_ns, bisect_right(self._starts, at_ns) - 1)

    def dynamic_mw(self, at_ns: int) -> int:
        """Power of all boards above idle at an instant."""
        bend = self._bends[bisect_right(self._starts, at_ns) - 1]
        uj = self.demand.slot_at(at_ns).dynamic_uj * bend.demand_ppm * bend.energy_ppm // (WHOLE * WHOLE)
        return uj_over_ns_to_mw(uj, self.demand.slot_ns)

    def running(self, at_ns: int, e2e_ns: int) -> int:
        """Requests in flight (Little's law): at least 1 wherever there is work, 0 where there is none."""
        bend = self._bends[bisect_right(self._starts, at_ns) - 1]
        requests = self.demand.slot_at(at_ns).requests
        return max(requests * bend.demand_ppm * e2e_ns // (self.demand.slot_ns * WHOLE), min(requests, 1))

    def _up_to(self, at_ns: int, place: int) -> Amounts:
        """The same, at an instant that the bend at this place reaches."""
        bend = self._bends[place]
        then, now = self.demand.at(bend.from_ns), self.demand.at(at_ns)
        requests, prompt, output, dynamic = self._bases
        part = bend.demand_ppm
        return Amounts(
            requests[place] + (now.requests - then.requests) * part // WHOLE,
            prompt[place] + (now.prompt_tokens - then.prompt_tokens) * part // WHOLE,
            output[place] + (now.output_tokens - then.output_tokens) * part // WHOLE,
            dynamic[place] + (now.dynamic_uj - then.dynamic_uj) * part * bend.energy_ppm // (WHOLE * WHOLE),
        )
