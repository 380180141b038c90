"""What is left of a server's input for its accelerators, when the share of the rest of the server is known.

Theory. With a counter, the accelerators' energy since a beginning is R(t) = F(t) - F(0) - (H(t) - H(0)), in integers,
where F is the server's counter and H what its host has used: windows of it telescope as those of F do. R may fall while
the accelerators idle, since the host's share is partly a constant and sensors are noisy; a counter may not, so the
highest R so far is told, and a deficit is made up for before anything more is. One as large as if the host's share were
2 % too high for ten minutes is no noise: it is a failure, and the counter begins anew. With a gauge, up to 2 % of the
server's power below 0 is 0, and shown beside it as `residual_w`; more is a failure.

The server's own counter is followed by the rules of all counters, so that its wraps, resets and leaps become gaps.
"""

import msgspec

from joulefleet import Failure, MeterReading, Reading
from joulefleet.counter import CounterTrack, Gap, Rules
from joulefleet.units import mw_ns_to_uj, mw_to_w, s_to_ns
from joulefleet_plugins.meters.host_share import HostShare

TOLERANCE_PARTS = 50
"""2 %: how far parts may exceed the whole."""
TOLERANCE_NS = s_to_ns(600)
NEGATIVE = "negative_residual"
HOST_UNKNOWN = "host_unknown"


class Remainder(msgspec.Struct, kw_only=True):
    """Follows one server's input, and tells what is left of it."""

    meter: str
    """Id of the meter that the remainder is of."""
    host: HostShare
    rules: Rules
    """Those of the server's counter."""
    life: str
    """Changes with each process that counts."""
    track: CounterTrack = msgspec.field(default_factory=CounterTrack)
    begun_uj: int | None = None
    """The server's running total less its host's where R is 0; None while it has not begun."""
    highest_uj: int = 0
    lives: int = 0
    host_lives: int = 0

    def feed(self, reading: MeterReading, at_ns: int) -> Reading:
        """The remainder of what the server's input was at an instant."""
        host_mw = self.host.power_mw(at_ns)
        if host_mw is None:
            return self._failure(HOST_UNKNOWN, "it is not known what the host's own meters were when the server's was")
        counter_uj = None
        if reading.counter_uj is not None:
            counter_uj = self._counter_uj(reading, reading.counter_uj, at_ns, host_mw)
        power_mw = None if reading.power_mw is None else reading.power_mw - host_mw
        positive_mw = None if power_mw is None or _is_deficit(power_mw, host_mw) else max(power_mw, 0)
        if counter_uj is None and (reading.counter_uj is not None or positive_mw is None):
            told = f"the server draws less than the {mw_to_w(host_mw):g} W of its host"
            now = "" if power_mw is None else f", {mw_to_w(power_mw):g} W now"
            return self._failure(NEGATIVE, f"{told}{now}: host_w is too high")
        return MeterReading(
            meter=self.meter,
            at_ns=reading.at_ns,
            age_ns=reading.age_ns,
            counter_uj=counter_uj,
            power_mw=positive_mw,
            epoch="" if counter_uj is None else f"{self.life}.{self.lives}",
            gauges={} if power_mw is None else {"residual_w": mw_to_w(power_mw)},
        )

    def _counter_uj(self, reading: MeterReading, raw_uj: int, at_ns: int, host_mw: int) -> int | None:
        """The highest remainder so far; None where there is a deficit that is no noise."""
        told = self.track.feed(self.rules, at_ns, raw_uj, reading.epoch, reading.power_mw)
        if told is None and self.begun_uj is not None:
            return self.highest_uj
        host_uj = self.host.used_uj(at_ns)
        assert host_uj is not None, "its power is known then"
        now_uj = self.track.total_uj - host_uj
        if self.begun_uj is None or isinstance(told, Gap) or self.host_lives != self.host.lives:
            self._begin(now_uj)
        assert self.begun_uj is not None
        left_uj = now_uj - self.begun_uj
        if self.highest_uj - left_uj > mw_ns_to_uj(host_mw * TOLERANCE_NS) // TOLERANCE_PARTS:
            self._begin(now_uj)
            return None
        self.highest_uj = max(self.highest_uj, left_uj)
        return self.highest_uj

    def _begin(self, now_uj: int) -> None:
        self.begun_uj, self.highest_uj = now_uj, 0
        self.host_lives = self.host.lives
        self.lives += 1

    def _failure(self, code: str, detail: str) -> Failure:
        return Failure(subject=self.meter, code=code, detail=detail)


def _is_deficit(power_mw: int, host_mw: int) -> bool:
    return -power_mw * TOLERANCE_PARTS > power_mw + host_mw
