"""Tells a sensor that has stopped from a server that draws the same power all night.

A value that stands still says nothing by itself. What stands beside it does: the sensor's own time stamp, which a
living sensor renews, or, where there is none, other values of the same answer, which go on to move.
"""

import msgspec

STALE_S = 60.0
"""So long may a time stamp stand still with its value: the slowest sensors of BMCs make a value each minute."""
LYING_MOVES = 2
"""One move of a value under its old stamp may be a question between the two."""
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
    moves_under: int = 0
    """How often the value was seen to move since the stamp last did."""

    @property
    def stamp_lies(self) -> bool:
        """Whether values move under a stamp that stands still: it is the time of something else."""
        return self.moves_under >= LYING_MOVES

    def judge(self, now_s: float, value: object, stamp: str = "", others: int = 0) -> str:
        """One more look: `stale`, `stuck`, or nothing. `others` is a digest of the values beside this one."""
        moved, renewed = value != self.value, stamp != self.stamp
        first, self.value, self.stamp = self.since_s is None, value, stamp
        self.moves_under = 0 if first or renewed else self.moves_under + moved
        if first or moved or (renewed and stamp):
            self.others, self.since_s, self.moves = others, now_s, 0
        return self._code(now_s - (self.since_s or 0.0), others)

    def _code(self, still_s: float, others: int) -> str:
        self.moves += others != self.others
        self.others = others
        if self.stamp and not self.stamp_lies:
            return "stale" if still_s > self.stale_s else ""
        return "stuck" if still_s > STUCK_S and self.moves >= STUCK_MOVES else ""
