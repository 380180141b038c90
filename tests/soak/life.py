"""The processes of a soak: killed, started again as a service manager would, and their memory watched."""

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression

import msgspec
import psutil

from joulefleet.units import bytes_to_mb

AGAIN_S = 1.0
"""Until a process that ended by itself is started again."""
LOADED_S = 5.0
SETTLED_S = 120.0
"""After so much of its life a process has met a backlog, and its caches are full."""
JUDGED_S = 180.0
"""End of a life over which memory should be flat."""
END_S = 30.0
LISTENS_S = 0.1


class Life(msgspec.Struct):
    """One process from its start to its end; times in seconds since the beginning of the soak."""

    began_s: float
    ended_s: float | None = None
    at_work_s: float | None = None
    """When it was first seen to be at work."""
    resident: list[tuple[float, float]] = []
    """Time and resident memory in MB."""

    @property
    def length_s(self) -> float:
        """From its start to its last sample."""
        return self.resident[-1][0] - self.began_s if self.resident else 0.0

    @property
    def started(self) -> list[tuple[float, float]]:
        """The samples from when it has loaded its code."""
        return [one for one in self.resident if one[0] - self.began_s >= LOADED_S] or self.resident

    @property
    def slope_mb_per_min(self) -> float | None:
        """Least squares over the end of its life, when caches are full; None where it was too short to tell."""
        if self.length_s < SETTLED_S + JUDGED_S:
            return None
        last = [one for one in self.resident if self.resident[-1][0] - one[0] <= JUDGED_S]
        seconds, resident_mb = zip(*last, strict=True)
        return linear_regression(seconds, resident_mb).slope * 60


class Kept:
    """A process that is started again whenever it has ended, unless that was its good end."""

    def __init__(
        self,
        name: str,
        kind: str,
        words: Sequence[str | Path],
        logs: Path,
        *,
        port: int | None = None,
        may_end: bool = False,
    ) -> None:
        """It is at work once it listens on `port`; `may_end` says that an end with exit code 0 is a good one."""
        self.name, self.kind = name, kind
        self.lives: list[Life] = []
        self.by_itself: list[tuple[float, int]] = []
        """Ends that nobody asked for: when, and the exit code."""
        self.log = logs / f"{name}.log"
        self._words = words
        self._port = port
        self._may_end = may_end
        self._process: subprocess.Popen[bytes] | None = None
        self._due_s: float | None = 0.0

    @property
    def runs(self) -> bool:
        """Whether it was running when last looked at."""
        return self._process is not None

    def start(self, now_s: float) -> None:
        """Start it now."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._due_s = None
        self.lives.append(Life(now_s))

    def kill(self, now_s: float, down_s: float) -> bool:
        """`kill -9`, and start again after so long; not one that has not yet come back from the last time."""
        if self._process is None or self.lives[-1].at_work_s is None:
            return False
        self._process.kill()
        self._over(now_s)
        self._due_s = now_s + down_s
        return True

    def tend(self, now_s: float) -> None:
        """Start it where that is due; note where it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            code = self._over(now_s)
            if self._may_end and code == 0:
                return
            self.by_itself.append((now_s, code))
            self._due_s = now_s + AGAIN_S
        elif self._process is not None and self.lives[-1].at_work_s is None and self._listens():
            self.lives[-1].at_work_s = now_s
        elif self._due_s is not None and now_s >= self._due_s:
            self.start(now_s)

    @property
    def is_done(self) -> bool:
        """Whether it does not run and is not to be started again."""
        return self._process is None and self._due_s is None

    def sample(self, now_s: float) -> None:
        """Note its memory, where it runs."""
        if self._process is not None:
            try:
                resident = psutil.Process(self._process.pid).memory_info().rss
            except psutil.NoSuchProcess:
                return
            if resident:
                self.lives[-1].resident.append((now_s, bytes_to_mb(resident)))

    def end(self, now_s: float) -> int | None:
        """Ask it to end, and wait; its exit code, None where it did not run."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._over(now_s)

    def close(self, now_s: float) -> None:
        """End it at once and for good."""
        if self._process is not None:
            self._process.kill()
            self._over(now_s)
        self._due_s = None

    @property
    def most_mb(self) -> float:
        """The most memory that it had in any life."""
        return max((mb for life in self.lives for _, mb in life.resident), default=0.0)

    def _listens(self) -> bool:
        if self._port is None:
            return True
        with socket.socket() as trial:
            trial.settimeout(LISTENS_S)
            return trial.connect_ex(("127.0.0.1", self._port)) == 0

    def _over(self, now_s: float) -> int:
        assert self._process is not None
        code, self._process = self._process.wait(), None
        self.lives[-1].ended_s = now_s
        return code
