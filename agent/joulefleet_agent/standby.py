"""Takes a meter's gauge where its counter is proven to stand still, and the counter again once it can be believed.

While a counter stands still, its gauge is integrated beside it, and told nowhere. Once that has lasted, the two change
places at the edge of a window, under another declaration: so each window is told by one of them, whole, and no joule
by both or by neither. The counter is then followed in the same way, until it moves and agrees with the gauge.

    counter told  --stands still-->  counter told, gauge beside it  --for ten minutes-->  gauge told, counter beside it
    gauge told, counter beside it  --the counter moves, and agrees over a minute of load-->  counter told
"""

from collections.abc import Sequence

import msgspec

from joulefleet.window import MeterWindow, Window
from joulefleet_agent.health import LONG_NS, STUCK, CounterHealth, HealthBook, by_gauge, enough
from joulefleet_agent.meter_cut import MeterCut


class Standbys(msgspec.Struct):
    """The other ways in which meters are read, and that are not told."""

    cuts: dict[str, MeterCut] = {}
    """By meter."""
    counters: dict[str, CounterHealth] = {}
    """Of meters whose gauge is told: what is learnt of the counter beside it."""

    def fail(self, meter: str, code: str, at_ns: int) -> None:
        """A read without a value."""
        if meter in self.cuts:
            self.cuts[meter].health.fail(code, at_ns)

    def drop(self, meter: str) -> None:
        """The meter is declared otherwise, or no more."""
        self.cuts.pop(meter, None)
        self.counters.pop(meter, None)

    def forget(self, before_ns: int) -> None:
        """No window before this instant will be closed any more."""
        for cut in self.cuts.values():
            cut.parts = {window_ns: part for window_ns, part in cut.parts.items() if window_ns >= before_ns}

    def shift(self, by_ns: int) -> None:
        """A new timeline begins, whose clock differs by so much; what was read before is told nowhere."""
        for cut in self.cuts.values():
            cut.shift(by_ns)
            cut.parts.clear()
            cut.since_ns = 0

    def exchange(self, window: Window, told: Sequence[MeterCut], health: HealthBook) -> list[MeterCut]:
        """The meters that tell the windows after this one, which was just closed."""
        by_id = {one.meter.id: one for one in window.meters}
        for cut in told:
            if cut.instead_of is not None and cut.meter.id in by_id and cut.since_ns <= window.start_ns:
                by_id[cut.meter.id].states += (STUCK,)
        # One that leaves, or that is declared from a later window on, is not what this window tells of.
        telling = [cut.since_ns <= window.start_ns and not cut.until_ns for cut in told]
        return [
            self._next(cut, by_id[cut.meter.id], window, health) if tells else cut
            for cut, tells in zip(told, telling, strict=True)
        ]

    def _next(self, cut: MeterCut, one: MeterWindow, window: Window, health: HealthBook) -> MeterCut:
        if cut.instead_of is not None:
            return self._back(cut, one, window, health)
        stuck_ns = health.stuck_ns(one.meter.id)
        if not stuck_ns:
            self.drop(one.meter.id)
            return cut
        return self._away(cut, window, stuck_ns)

    def _away(self, cut: MeterCut, window: Window, stuck_ns: int) -> MeterCut:
        """From the counter to the gauge, as soon as that has shown for a whole window that it works."""
        gauge = self.cuts.get(cut.meter.id)
        if gauge is None:
            fresh = MeterCut(meter=by_gauge(cut.meter), since_ns=window.end_ns, instead_of=cut.meter)
            self.cuts[cut.meter.id] = fresh
            return cut
        works = enough(gauge.close(window.start_ns, window.step_ns).covered_ns, window.step_ns)
        if stuck_ns < LONG_NS or not works or cut.owes:
            return cut
        self.counters[cut.meter.id] = CounterHealth(condition=cut.meter.driver)
        self.cuts[cut.meter.id] = cut
        gauge.take_over(cut, window.end_ns)
        return gauge

    def _back(self, cut: MeterCut, one: MeterWindow, window: Window, health: HealthBook) -> MeterCut:
        """From the gauge to the counter, where nothing of the gauge is left to tell."""
        counter = self.cuts.get(cut.meter.id)
        if counter is None:
            return cut
        shown = counter.close(window.start_ns, window.step_ns)
        shown.idle_mw = one.idle_mw
        learnt = self.counters.setdefault(cut.meter.id, CounterHealth(condition=cut.meter.driver))
        learnt.observe(shown, window.step_ns)
        if not learnt.validated or cut.owes or cut.known_until_ns < window.end_ns:
            return cut
        health.counters[cut.meter.id] = learnt
        self.drop(cut.meter.id)
        counter.take_over(cut, window.end_ns)
        return counter
