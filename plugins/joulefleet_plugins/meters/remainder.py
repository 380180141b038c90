"""What is left of a server's input for its accelerators, when the share of the rest of the server is known.

Theory. With a counter, the accelerators' energy since a beginning is R(t) = F(t) - F(0) - P * t, in integers: windows
of it telescope as those of the server's counter do. R may fall while the accelerators idle, since P is a constant and
sensors are noisy; a counter may not, so the highest R so far is told, and a deficit is made up for before anything more
is. One as large as if the host's share were 2 % too high for ten minutes is no noise: it is a failure, and the counter
begins anew. With a gauge, up to 2 % of the server's power below 0 is 0, and shown beside it as `residual_w`; more is a
failure.

The server's own counter is followed by the rules of all counters, so that its wraps, resets and leaps become gaps.
"""

import msgspec

from joulefleet import Failure, MeterReading, Reading
from joulefleet.counter import CounterTrack, Gap, Rules
from joulefleet.units import mw_ns_to_uj, mw_to_w, s_to_ns

TOLERANCE_PARTS = 50
"""2 %: how far parts may exceed the whole."""
TOLERANCE_NS = s_to_ns(600)
NEGATIVE = "negative_residual"


class Remainder(msgspec.Struct, kw_only=True):
    """Follows one server's input, and tells what is left of it."""

    meter: str
    """Id of the meter that the remainder is of."""
    host_mw: int
    """Share of the rest of the server."""
    rules: Rules
    """Those of the server's counter."""
    life: str
    """Changes with each process that counts."""
    track: CounterTrack = msgspec.field(default_factory=CounterTrack)
    begun_ns: int = -1
    begun_uj: int = 0
    highest_uj: int = 0
    lives: int = 0

    def feed(self, reading: MeterReading, at_ns: int) -> Reading:
        """The remainder of what the server's input was at an instant."""
        power_mw = self._power_mw(reading.power_mw)
        gauges = {} if power_mw is None else {"residual_w": mw_to_w(power_mw)}
        positive_mw = None if power_mw is None or self._is_deficit(power_mw) else max(power_mw, 0)
        counter_uj = None
        if reading.counter_uj is not None:
            counter_uj = self._counter_uj(reading, at_ns)
        if counter_uj is None and (reading.counter_uj is not None or positive_mw is None):
            return self._failure(power_mw)
        return MeterReading(
            meter=self.meter,
            at_ns=reading.at_ns,
            age_ns=reading.age_ns,
            counter_uj=counter_uj,
            power_mw=positive_mw,
            epoch="" if counter_uj is None else f"{self.life}.{self.lives}",
            gauges=gauges,
        )

    def _power_mw(self, server_mw: int | None) -> int | None:
        return None if server_mw is None else server_mw - self.host_mw

    def _is_deficit(self, power_mw: int) -> bool:
        return -power_mw * TOLERANCE_PARTS > power_mw + self.host_mw

    def _counter_uj(self, reading: MeterReading, at_ns: int) -> int | None:
        """The highest remainder so far; None where there is a deficit that is no noise."""
        assert reading.counter_uj is not None
        told = self.track.feed(self.rules, at_ns, reading.counter_uj, reading.epoch, reading.power_mw)
        if isinstance(told, Gap) or self.begun_ns < 0:
            self._begin()
        host_uj = mw_ns_to_uj(self.host_mw * (self.track.anchor_ns - self.begun_ns))
        left_uj = self.track.total_uj - self.begun_uj - host_uj
        if self.highest_uj - left_uj > mw_ns_to_uj(self.host_mw * TOLERANCE_NS) // TOLERANCE_PARTS:
            self._begin()
            return None
        self.highest_uj = max(self.highest_uj, left_uj)
        return self.highest_uj

    def _begin(self) -> None:
        self.begun_ns, self.begun_uj = self.track.anchor_ns, self.track.total_uj
        self.highest_uj = 0
        self.lives += 1

    def _failure(self, power_mw: int | None) -> Failure:
        told = "" if power_mw is None else f", {mw_to_w(power_mw):g} W now"
        detail = f"the server draws less than the {mw_to_w(self.host_mw):g} W of its host{told}: host_w is too high"
        return Failure(subject=self.meter, code=NEGATIVE, detail=detail)
