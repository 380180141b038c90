"""Tells a sensor that has stopped from a server that draws the same power all night.

A value that stands still says nothing by itself. What stands beside it does: the sensor's own time stamp, which a
living sensor renews, or, where there is none, other values of the same answer, which go on to move.
"""

import msgspec

STALE_S = 60.0
"""So long may a time stamp stand still with its value: the slowest sensors of BMCs make a value each minute."""
STUCK_S = 1800.0
STUCK_MOVES = 10
"""So long, and over so many changes of the others, must a value without a time stamp stand still to be `stuck`."""


class Still(msgspec.Struct):
    """What was seen of one value since it last moved. Times in seconds of any clock that only rises."""

    stale_s: float = STALE_S
    value: object = None
    stamp: str = ""
    others: int = 0
    since_s: float | None = None
    """When the value, or its stamp, was first seen as it is; None before the first."""
    moves: int = 0
    """How often the others were seen to move since."""
    stamp_lies: bool = False
    """Whether the value was seen to move under a stamp that stood still: it is the time of something else."""

    def judge(self, now_s: float, value: object, stamp: str = "", others: int = 0) -> str:
        """One more look: `stale`, `stuck`, or nothing. `others` is a digest of the values beside this one."""
        stamp = self._believed(value, stamp)
        if self.since_s is None or value != self.value or stamp != self.stamp:
            self.value, self.stamp, self.others, self.since_s, self.moves = value, stamp, others, now_s, 0
            return ""
        self.moves += others != self.others
        self.others = others
        still_s = now_s - self.since_s
        if stamp:
            return "stale" if still_s > self.stale_s else ""
        return "stuck" if still_s > STUCK_S and self.moves >= STUCK_MOVES else ""

    def _believed(self, value: object, stamp: str) -> str:
        moved = self.since_s is not None and value != self.value
        self.stamp_lies = self.stamp_lies or (moved and stamp != "" and stamp == self.stamp)
        return "" if self.stamp_lies else stamp
