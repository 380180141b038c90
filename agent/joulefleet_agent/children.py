"""The processes that a command starts of its own, and ends with itself."""

import subprocess
import sys
from pathlib import Path
from types import TracebackType

END_WITHIN_S = 10.0


class CannotGoOn(Exception):
    """What a command needs is not to be had, or one of its processes ended by itself."""


class Children:
    """Our own processes: started here, ended here, by their id."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> "Children":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._running.values():
            child.terminate()
        for child in self._running.values():
            try:
                child.wait(timeout=END_WITHIN_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def start(self, name: str, *words: str) -> subprocess.Popen[str]:
        """Start a `joulefleet` command whose errors go to the log of this name."""
        with self._log(name).open("w", encoding="utf-8") as errors:
            child = subprocess.Popen(
                [sys.executable, "-m", "joulefleet", *words], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self._running[name] = child
        return child

    def check(self) -> None:
        """Raises CannotGoOn, with its last words, where one of them has ended."""
        for name, child in self._running.items():
            if child.poll() is not None:
                raise CannotGoOn(self.last_words(name))

    def last_words(self, name: str) -> str:
        """Why this process ended, as it said."""
        said = self._log(name).read_text(encoding="utf-8", errors="replace").strip()
        sentence = said.splitlines()[-1].removeprefix("Error: ") if said else "it did not say why"
        return f"the {name} ended: {sentence} (log: {self._log(name)})"

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"
