"""From readings to joules: what lies between two readings, and how it is cut into windows.

Theory. A counter read at t0 and t1 tells the energy between them exactly and nothing about its course; inside the
pair it is taken to run straight: F(t) = C0 + floor((C1 - C0) (t - t0) / (t1 - t0)), in integers. A window's energy is
F(end) - F(start), and the end of one window is the start of the next, so that windows telescope: their sum is exactly
the last reading minus the first, whatever the windows. All that can go wrong with a counter (it wraps, begins anew,
stands still, leaps) is decided here, on each pair, first match wins:

1. another epoch: a gap; at least the new value was used if the counter is known to begin at 0
2. not later than the last reading: dropped, so that readings may come twice
3. a wrap, where the counter declares its modulus and only one wrap is possible at 1.2 times the rated power; else a gap
4. a decrease without modulus: as 1
5. a counter that did not move tells nothing yet (a sensor that makes a value each minute is read each second): the
   pair goes on until it moves; more energy than 1.2 times the rated power could give is refused; a counter that should
   have moved is `stuck`; the value that is read first may be as old as the refresh, so that where it moves sooner it
   counts from there, and the time before is `settling`
6. more than `max_gap_ns` apart: taken, and marked `interpolated`, because its place in time is uncertain

A power gauge is integrated by trapezoids into such a counter; readings too far apart leave a gap.
"""

import msgspec

from joulefleet.describe import Meter
from joulefleet.units import mw_ns_to_uj, uj_to_mw_ns

TOLERANCE = (12, 10)
"""Readings up to 1.2 times the rated power are believed: boards overshoot their limit for short times."""
GAP_PERIODS = 5
STUCK_REFRESHES = 10
STUCK_RESOLUTIONS = 10
MOST_LEAP_UJ = 2**56
"""More (20 MWh) is believed of no counter between two readings, where no rated power tells less."""
UNMOVED = ("epoch", "stuck")
"""Gaps after which the counter goes on from a value that may have been old when it was read."""


class Pair(msgspec.Struct, frozen=True):
    """Energy that is known between two instants: the running total went from `first_uj` to `last_uj`."""

    start_ns: int
    end_ns: int
    first_uj: int
    last_uj: int
    interpolated: bool = False

    def total_at(self, at_ns: int) -> int:
        """F(t), the running total at an instant inside the pair."""
        return self.first_uj + part_of(self.last_uj - self.first_uj, self.start_ns, self.end_ns, at_ns)


class Gap(msgspec.Struct, frozen=True):
    """Time of which the energy is not known, and why."""

    start_ns: int
    end_ns: int
    code: str
    lower_bound_uj: int = 0
    rejected_uj: int = 0


def part_of(delta: int, start_ns: int, end_ns: int, at_ns: int) -> int:
    """floor(delta * (at - start) / (end - start)): how much of a change had happened at an instant inside a pair."""
    return delta * (at_ns - start_ns) // (end_ns - start_ns)


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a counter before it is read. Energy in microjoules; 0 where it is not known."""

    max_power_mw: int = 0
    modulus_uj: int = 0
    restarts_at_zero: bool = False
    resolution_uj: int = 0
    refresh_ns: int = 0
    max_gap_ns: int
    idle_mw: int = 0

    @classmethod
    def of(cls, meter: Meter) -> "Rules":
        """The rules that a meter's declaration implies."""
        return cls(
            max_power_mw=meter.max_power_mw,
            modulus_uj=meter.modulus_uj,
            restarts_at_zero=meter.restarts_at_zero,
            resolution_uj=meter.resolution_uj,
            refresh_ns=meter.refresh_ns,
            max_gap_ns=GAP_PERIODS * max(meter.period_ns, meter.refresh_ns),
            idle_mw=meter.idle_mw,
        )

    def most_uj(self, length_ns: int) -> int:
        """The most energy that is believed in so long a time."""
        return mw_ns_to_uj(self.max_power_mw * length_ns * TOLERANCE[0] // TOLERANCE[1])

    def believes(self, power_mw: int) -> bool:
        """Whether a gauge may tell so much."""
        return power_mw >= 0 and (not self.max_power_mw or power_mw * TOLERANCE[1] <= self.max_power_mw * TOLERANCE[0])

    def may_wrap_twice(self, length_ns: int) -> bool:
        """Whether a counter with a modulus could have gone round more than once in so long a time."""
        return self.max_power_mw > 0 and self.most_uj(length_ns) >= self.modulus_uj


class CounterTrack(msgspec.Struct):
    """Follows one energy counter from reading to reading."""

    epoch: str = ""
    anchor_ns: int = -1
    """Time of the last reading at which the counter had moved; -1 before the first."""
    raw_uj: int = 0
    """The counter there."""
    total_uj: int = 0
    """The running total there: begins at the first reading, follows wraps, stands still over gaps."""
    last_ns: int = -1
    """Time of the last reading, moved or not."""
    expected_uj: int = 0
    """What the gauge says was used above idle since the anchor, while the counter stood still."""
    above_idle_ns: int = 0
    moved: bool = False
    """Whether the counter was seen to move at the anchor, so that its value there was new."""

    def feed(self, rules: Rules, at_ns: int, raw_uj: int, epoch: str, power_mw: int | None = None) -> Pair | Gap | None:
        """One more reading; what is known since the last one, or None if nothing is yet."""
        if self.anchor_ns < 0:
            self.total_uj = raw_uj
            self.epoch = epoch
            self._move(at_ns, raw_uj, moved=False)
            return None
        if at_ns <= self.last_ns:
            return None
        if epoch != self.epoch:
            self.epoch = epoch
            return self._begin_anew(rules, at_ns, raw_uj, "epoch")
        if raw_uj == self.raw_uj and rules.refresh_ns:
            return self._stand_still(rules, at_ns, power_mw)
        if not self.moved and at_ns - self.anchor_ns < rules.refresh_ns:
            # It rose by what was used in a whole refresh, most of which may lie before the anchor.
            return self._skip(at_ns, raw_uj, "settling")
        return self._advance(rules, at_ns, raw_uj)

    def shift(self, by_ns: int) -> None:
        """Move all times: the clock was set back and a new timeline begins."""
        if self.anchor_ns >= 0:
            self.anchor_ns += by_ns
            self.last_ns += by_ns

    def _advance(self, rules: Rules, at_ns: int, raw_uj: int) -> Pair | Gap:
        length_ns = at_ns - self.anchor_ns
        delta_uj = raw_uj - self.raw_uj
        if delta_uj < 0 and not rules.modulus_uj:
            return self._begin_anew(rules, at_ns, raw_uj, "reset")
        if rules.modulus_uj:
            if rules.may_wrap_twice(length_ns):
                return self._skip(at_ns, raw_uj, "wrap_ambiguous", lower_bound_uj=delta_uj % rules.modulus_uj)
            if delta_uj < 0:
                delta_uj += rules.modulus_uj
                if not 0 <= delta_uj <= rules.most_uj(length_ns):
                    return self._begin_anew(rules, at_ns, raw_uj, "reset")
        most_uj = rules.most_uj(length_ns + rules.refresh_ns) if rules.max_power_mw else MOST_LEAP_UJ
        if delta_uj - rules.resolution_uj > most_uj:
            return self._skip(at_ns, raw_uj, "implausible", rejected_uj=delta_uj)
        pair = Pair(
            self.anchor_ns, at_ns, self.total_uj, self.total_uj + delta_uj, interpolated=length_ns > rules.max_gap_ns
        )
        self.total_uj += delta_uj
        self._move(at_ns, raw_uj)
        return pair

    def _stand_still(self, rules: Rules, at_ns: int, power_mw: int | None) -> Gap | None:
        if power_mw is not None and power_mw > rules.idle_mw:
            self.expected_uj += mw_ns_to_uj(power_mw * (at_ns - self.last_ns))
            self.above_idle_ns += at_ns - self.last_ns
        self.last_ns = at_ns
        if (
            self.above_idle_ns > STUCK_REFRESHES * rules.refresh_ns
            and self.expected_uj > STUCK_RESOLUTIONS * max(rules.resolution_uj, 1)
            and at_ns - self.anchor_ns > rules.max_gap_ns
        ):
            return self._skip(at_ns, self.raw_uj, "stuck")
        return None

    def _begin_anew(self, rules: Rules, at_ns: int, raw_uj: int, code: str) -> Gap:
        # If the counter did not restart after all, only what it rose by is sure.
        least_uj = raw_uj - self.raw_uj if raw_uj >= self.raw_uj else raw_uj
        if rules.max_power_mw:
            # One that leapt and came back did not begin anew, and tells more than can have been used since.
            least_uj = min(least_uj, rules.most_uj(at_ns - self.anchor_ns + rules.refresh_ns))
        return self._skip(at_ns, raw_uj, code, lower_bound_uj=least_uj if rules.restarts_at_zero else 0)

    def _skip(self, at_ns: int, raw_uj: int, code: str, lower_bound_uj: int = 0, rejected_uj: int = 0) -> Gap:
        gap = Gap(self.anchor_ns, at_ns, code, lower_bound_uj, rejected_uj)
        self._move(at_ns, raw_uj, moved=code not in UNMOVED)
        return gap

    def _move(self, at_ns: int, raw_uj: int, moved: bool = True) -> None:
        self.moved = moved
        self.anchor_ns = self.last_ns = at_ns
        self.raw_uj = raw_uj
        self.expected_uj = self.above_idle_ns = 0


class GaugeTrack(msgspec.Struct):
    """Integrates one power gauge into a counter, by trapezoids."""

    last_ns: int = -1
    power_mw: int = 0
    total_uj: int = 0
    """The integral so far, in whole microjoules."""
    rest: int = 0
    """Twice what is left of it, in milliwatt-nanoseconds: doubled, so that a trapezoid stays whole."""
    refused_ns: int = -1
    """Time of the last reading that was refused; -1 before the first."""

    def feed(self, rules: Rules, at_ns: int, power_mw: int) -> Pair | Gap | None:
        """One more reading; what is known since the last one, or None if nothing is."""
        if self.last_ns >= 0 and at_ns <= self.last_ns:
            return None
        if not rules.believes(power_mw):
            return self._refuse(rules, at_ns, power_mw)
        start_ns, start_mw = self.last_ns, self.power_mw
        self.last_ns, self.power_mw = at_ns, power_mw
        if start_ns < 0:
            return None
        if at_ns - start_ns > rules.max_gap_ns:
            return Gap(start_ns, at_ns, "gap")
        first_uj = self.total_uj
        self.rest += (start_mw + power_mw) * (at_ns - start_ns)
        whole_uj = mw_ns_to_uj(self.rest // 2)
        self.total_uj += whole_uj
        self.rest -= 2 * uj_to_mw_ns(whole_uj)
        return Pair(start_ns, at_ns, first_uj, self.total_uj)

    def shift(self, by_ns: int) -> None:
        """Move all times: the clock was set back and a new timeline begins."""
        if self.last_ns >= 0:
            self.last_ns += by_ns
        if self.refused_ns >= 0:
            self.refused_ns += by_ns

    def _refuse(self, rules: Rules, at_ns: int, power_mw: int) -> Gap | None:
        """A reading that cannot be: it is passed over, and the next good one pairs with the last good one."""
        if self.last_ns < 0 or at_ns <= self.refused_ns:
            return None
        # Of several in a row each stands for its own time, and none for more than would have been integrated.
        length_ns = min(at_ns - max(self.last_ns, self.refused_ns), rules.max_gap_ns)
        self.refused_ns = at_ns
        return Gap(at_ns, at_ns, "implausible", rejected_uj=mw_ns_to_uj(max(power_mw, 0) * length_ns))
