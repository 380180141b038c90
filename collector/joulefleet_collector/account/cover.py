"""The meters of a window that make up each boundary.

Chosen from the meters that a window declares, failing ones included: a meter that gives no value lowers coverage
and never moves the boundary. A figure of the cover depends on no policy, since it decides which rows there are.
"""

from collections.abc import Sequence

import msgspec

from joulefleet import topology
from joulefleet.window import MeterWindow


class Cover(msgspec.Struct, frozen=True, kw_only=True):
    """As `topology.Cover`, with what was read of each meter."""

    boundary: str
    devices: tuple[MeterWindow, ...] = ()
    rest: tuple[MeterWindow, ...] = ()
    whole: MeterWindow | None = None
    parts: tuple[MeterWindow, ...] = ()

    @property
    def meters(self) -> tuple[MeterWindow, ...]:
        """Those whose sum is the energy of the boundary."""
        return (self.whole,) if self.whole is not None else self.devices + self.rest


def covers(meters: Sequence[MeterWindow], step_ns: int) -> tuple[Cover, ...]:
    """The cover of each boundary that the declared meters can tell, in the order of `rows.BOUNDARIES`."""
    # By the declaration itself: should two have one id, topology has chosen between them.
    read = {id(one.meter): one for one in meters}
    return tuple(
        Cover(
            boundary=cover.boundary,
            devices=tuple(read[id(meter)] for meter in cover.devices),
            rest=tuple(read[id(meter)] for meter in cover.rest),
            whole=None if cover.whole is None else read[id(cover.whole)],
            parts=tuple(read[id(meter)] for meter in cover.parts),
        )
        for cover in topology.covers([one.meter for one in meters], step_ns)
    )
