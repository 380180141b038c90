"""Tells whether the pages of one address are always one process's: only then do its counters rise by what was done.

A balancer before several servers, or several workers behind one port that count each for itself, show now the counts of
one and now those of another. Each change would look like a restart, after which everything is counted again. Signs:

- A process that was there before another one is there again: none that has ended comes back.
- Where the page does not tell when its process began, its counts fall twice within CALM_READS.

After a sign nothing is believed until there was none for CALM_READS, and of those processes nothing ever again.
"""

CALM_READS = 12
MOST_REMEMBERED = 64


class OneProcess:
    """Follows the pages of one address."""

    def __init__(self) -> None:
        self._epoch = ""
        """The last one that was told."""
        self._total = 0
        self._before: dict[str, None] = {}
        """Epochs of processes that were there before this one, the oldest first."""
        self._mixed: set[str] = set()
        self._calm = self._since_fall = CALM_READS

    def is_one(self, epoch: str, total: int) -> bool:
        """Whether this page may be counted: when its process began (empty where it does not tell), and its sum."""
        sign = self._is_sign(epoch, total)
        if sign and epoch:
            self._mixed = {*self._before, epoch}
        self._epoch, self._total = epoch or self._epoch, total
        self._calm = 0 if sign else min(self._calm + 1, CALM_READS)
        return self._calm >= CALM_READS and epoch not in self._mixed

    def _is_sign(self, epoch: str, total: int) -> bool:
        self._since_fall = min(self._since_fall + 1, CALM_READS)
        if epoch and self._epoch and epoch != self._epoch:
            self._before[self._epoch] = None
            if len(self._before) > MOST_REMEMBERED:
                del self._before[next(iter(self._before))]
            return epoch in self._before
        if total >= self._total:
            return False
        again, self._since_fall = self._since_fall < CALM_READS, 0
        return again
