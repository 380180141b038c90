"""Whether the sensors of a server can be believed: each counter beside its gauge, two sources of one thing, parts in
their whole.

Judged on closed windows, of which only sums are kept until they are long enough:

    unvalidated          a counter beside a gauge that has not yet agreed with it: half to twice, over a minute of load.
                         A counter without a gauge has nothing to agree with, and bears no state
    sensor_disagreement  counter and gauge, or two sources of one thing, more than 5 % apart over ten minutes of load;
                         or parts that sum to 2 % more than their whole over ten minutes, told at the whole
    stuck                the counter stands still; the gauge is taken in its place

A verdict stands until the next one. Load is power above 1.5 times idle; where idle power is not known, above a fifth
of the rated maximum; where that is not known either, any power.
"""

from collections.abc import Callable, Sequence

import msgspec

from joulefleet.describe import Meter
from joulefleet.topology import Comparisons
from joulefleet.units import NS_PER_S, uj_over_ns_to_mw
from joulefleet.window import MeterWindow, Window

DISAGREES, UNVALIDATED, STUCK = "sensor_disagreement", "unvalidated", "stuck"
FIRST_NS = 60 * NS_PER_S
"""Time under load over which a new counter has to agree with its gauge."""
LONG_NS = 600 * NS_PER_S
"""Time over which sensors are compared, and after which a counter that stands still is given up."""

Sums = tuple[int, int]
"""The same energy told twice, in microjoules."""


class Balance(msgspec.Struct, array_like=True):
    """Two accounts of one energy, added up until enough time is in them."""

    first_uj: int = 0
    second_uj: int = 0
    slack_uj: int = 0
    """By how much steps of the counters alone may set them apart."""
    length_ns: int = 0

    def add(self, sums: Sums, slack_uj: int, length_ns: int) -> None:
        """One more window."""
        self.first_uj += sums[0]
        self.second_uj += sums[1]
        self.slack_uj += slack_uj
        self.length_ns += length_ns

    def judged(self, needed_ns: int, is_good: Callable[["Balance"], bool]) -> bool | None:
        """The verdict, after which the sums begin anew; None as long as there is too little time in them."""
        if self.length_ns < needed_ns:
            return None
        verdict = is_good(self)
        self.first_uj = self.second_uj = self.slack_uj = self.length_ns = 0
        return verdict


def agree_roughly(both: Balance) -> bool:
    """Whether each is half to twice the other."""
    low, high = sorted((both.first_uj, both.second_uj))
    return high - both.slack_uj <= 2 * low and high > 0


def agree(both: Balance) -> bool:
    """Whether the second is within 5 % of the first."""
    return (abs(both.first_uj - both.second_uj) - both.slack_uj) * 20 <= both.first_uj


def fit_inside(both: Balance) -> bool:
    """Whether the second, a sum of parts, is at most 2 % more than the first, their whole."""
    return (both.second_uj - both.first_uj - both.slack_uj) * 50 <= both.first_uj


class CounterHealth(msgspec.Struct, array_like=True):
    """One counter beside its gauge."""

    condition: str = ""
    """Driver; another one may count otherwise."""
    validated: bool = False
    first: Balance = msgspec.field(default_factory=Balance)
    long: Balance = msgspec.field(default_factory=Balance)
    disagrees: bool = False
    stuck_ns: int = 0
    """How long it has stood still, while the gauge beside it was read."""

    def observe(self, one: MeterWindow, step_ns: int) -> None:
        """One more window of it."""
        if self.condition != one.meter.driver:
            self.condition, self.validated, self.disagrees = one.meter.driver, False, False
            self.first, self.long = Balance(), Balance()
        if one.energy_uj or one.late_uj:
            self.stuck_ns = 0
        elif enough(one.gauge_ns, step_ns) and self._is_stuck(one, step_ns):
            self.stuck_ns += step_ns
        if not (enough(one.gauge_ns, step_ns) and enough(one.covered_ns, step_ns) and is_loaded(one)):
            return
        told = (one.energy_uj, one.gauge_uj * one.covered_ns // one.gauge_ns)
        if not self.validated:
            self.first.add(told, one.meter.resolution_uj, step_ns)
            self.validated = bool(self.first.judged(FIRST_NS, agree_roughly))
        self.long.add(told, one.meter.resolution_uj, step_ns)
        verdict = self.long.judged(LONG_NS, agree)
        self.disagrees = self.disagrees if verdict is None else not verdict

    def _is_stuck(self, one: MeterWindow, step_ns: int) -> bool:
        # A slow counter is proven to stand still some minutes late: windows that closed meanwhile have no reason.
        goes_on = self.stuck_ns > 0 and not one.covered_ns
        return goes_on or one.gaps_ns.get(STUCK, 0) * 2 > step_ns or _stands_still(one)

    @property
    def states(self) -> list[str]:
        """What to tell of it."""
        return [*([] if self.validated else [UNVALIDATED]), *([DISAGREES] if self.disagrees else [])]


class Agreement(msgspec.Struct, array_like=True):
    """Several meters that have to agree."""

    sums: Balance = msgspec.field(default_factory=Balance)
    disagree: bool = False

    def observe(self, told: Sums, slack_uj: int, step_ns: int, is_good: Callable[[Balance], bool]) -> None:
        """One more window in which all of them were covered."""
        self.sums.add(told, slack_uj, step_ns)
        verdict = self.sums.judged(LONG_NS, is_good)
        self.disagree = self.disagree if verdict is None else not verdict


class HealthBook(msgspec.Struct):
    """What is known of all sensors of this server."""

    counters: dict[str, CounterHealth] = {}
    """By meter, of those that have a gauge beside them."""
    twins: dict[str, Agreement] = {}
    """By the lesser meter of the two."""
    wholes: dict[str, Agreement] = {}

    def fill_in(self, window: Window, compared: Comparisons) -> None:
        """Learn from a window, which knows idle power already, and write into it what there is to tell."""
        by_id = {one.meter.id: one for one in window.meters}
        self._drop_all_but(by_id, compared)
        told: dict[str, list[str]] = {}
        for name, one in by_id.items():
            if one.meter.grade == "counter" and (one.gauge_ns or name in self.counters):
                health = self.counters.setdefault(name, CounterHealth(condition=one.meter.driver))
                health.observe(one, window.step_ns)
                told[name] = health.states
        for pair in compared.twins:
            self._compare(self.twins, pair[1], [by_id[name] for name in pair], window.step_ns, agree)
            if self.twins.get(pair[1], Agreement()).disagree:
                for name in pair:
                    told.setdefault(name, []).append(DISAGREES)
        for whole, parts in compared.parts:
            self._compare(self.wholes, whole, [by_id[name] for name in (whole, *parts)], window.step_ns, fit_inside)
            if self.wholes.get(whole, Agreement()).disagree:
                told.setdefault(whole, []).append(DISAGREES)
        for name, states in told.items():
            by_id[name].states = tuple(sorted({*by_id[name].states, *states}))

    def stuck_ns(self, meter: str) -> int:
        """How long this meter's counter has stood still."""
        return self.counters[meter].stuck_ns if meter in self.counters else 0

    def _compare(
        self,
        kept: dict[str, Agreement],
        key: str,
        several: Sequence[MeterWindow],
        step_ns: int,
        is_good: Callable[[Balance], bool],
    ) -> None:
        first, *others = several
        loaded = is_good is fit_inside or is_loaded(first)
        if loaded and all(enough(one.covered_ns, step_ns) for one in several):
            sums = (_whole_uj(first, step_ns), sum(_whole_uj(one, step_ns) for one in others))
            slack_uj = sum(one.meter.resolution_uj for one in several)
            kept.setdefault(key, Agreement()).observe(sums, slack_uj, step_ns, is_good)

    def _drop_all_but(self, present: dict[str, MeterWindow], compared: Comparisons) -> None:
        # What was removed from a server is not remembered for ever.
        self.counters = {name: one for name, one in self.counters.items() if name in present}
        lesser, wholes = {other for _, other in compared.twins}, {whole for whole, _ in compared.parts}
        self.twins = {name: one for name, one in self.twins.items() if name in lesser}
        self.wholes = {name: one for name, one in self.wholes.items() if name in wholes}


def is_loaded(one: MeterWindow) -> bool:
    """Whether the larger of counter and gauge tells of work."""
    power_mw = max(_mean_mw(one.energy_uj, one.covered_ns), _mean_mw(one.gauge_uj, one.gauge_ns))
    if one.idle_mw is not None:
        return power_mw * 2 > one.idle_mw * 3
    return power_mw * 5 > one.meter.max_power_mw


def enough(known_ns: int, step_ns: int) -> bool:
    """Whether a window is known well enough to be judged: 95 % of it."""
    return known_ns * 100 >= step_ns * 95


def _stands_still(one: MeterWindow) -> bool:
    """Whether a counter that does not say how often it moves was 0 J all the time, and its gauge ten of its steps."""
    return one.covered_ns > 0 and one.gauge_uj > 10 * one.meter.resolution_uj and is_loaded(one)


def _mean_mw(energy_uj: int, length_ns: int) -> int:
    return uj_over_ns_to_mw(energy_uj, length_ns) if length_ns else 0


def _whole_uj(one: MeterWindow, step_ns: int) -> int:
    """The energy of the whole window, at its mean power."""
    return one.energy_uj * step_ns // one.covered_ns


def by_gauge(meter: Meter) -> Meter:
    """The declaration of a meter whose counter stands still, and whose gauge is integrated instead."""
    return msgspec.structs.replace(
        meter,
        grade="integrated",
        resolution_uj=0,
        modulus_uj=0,
        restarts_at_zero=False,
        basis="the power gauge, since the energy counter stands still",
    )
