"""The counts of a simulated agent outlive the process that made them."""

import subprocess
import sys
from pathlib import Path

from soak.tally import OTHER, Tally

COUNT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from soak.tally import Tally
Tally(Path(sys.argv[1])).add("sent", 7)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_counts_outlive_a_kill_and_go_on(tmp_path: Path) -> None:
    path, home = tmp_path / "tally", str(Path(__file__).parents[1])
    program = f"import sys; sys.path.insert(0, {home!r}){COUNT_AND_DIE}"
    assert subprocess.run([sys.executable, "-c", program, path], check=False).returncode == -9
    tally = Tally(path)
    tally.add("sent", 2)
    assert tally["sent"] == 9
    assert Tally(path)["sent"] == 9


def test_what_has_no_name_is_counted_with_the_others(tmp_path: Path) -> None:
    tally = Tally(tmp_path / "tally")
    tally.add("a new code")
    assert tally[OTHER] == 1


def test_the_longest_time_without_an_answer(tmp_path: Path) -> None:
    tally = Tally(tmp_path / "tally")
    for at_ns in (100, 110, 150, 155):
        tally.answered(at_ns)
    assert tally["longest_ns"] == 40
