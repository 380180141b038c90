"""A meter of somebody else's package, made from the tutorial, installed with pip, is found and used as it is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

TUTORIAL = (Path(__file__).parents[2] / "docs/write-a-meter.md").read_text(encoding="utf-8")
MOST_LINES = 40


def block(before: str) -> str:
    """The block of code that follows these words of the tutorial."""
    (code,) = re.findall(rf"{re.escape(before)}\n\n```\w+\n(.*?)```", TUTORIAL, re.DOTALL)
    return str(code)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tutorial's package is installed: a folder of its own."""
    package, site = tmp_path_factory.mktemp("example-meter"), tmp_path_factory.mktemp("site")
    (package / "example_meter.py").write_text(block("`example_meter.py`:"), encoding="utf-8")
    (package / "pyproject.toml").write_text(block("`pyproject.toml` beside it:"), encoding="utf-8")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, "-m", "pip", "install", *quiet, "--target", site, package], check=True)
    return site


def joulefleet(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(site)]))
    command = [sys.executable, "-m", "joulefleet", *words]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)


def configuration(folder: Path, power: Path) -> Path:
    """The agent's, with the tutorial's own table."""
    path = folder / "agent.toml"
    table = block(
        "Install it where the agent runs, see whether it is found, and name it in the agent's configuration:\n\n"
        "    pip install ./example-meter\n    joulefleet doctor"
    )
    path.write_text(table.replace("/run/example/power_mw", str(power)), encoding="utf-8")
    return path


def test_the_tutorial_is_short() -> None:
    assert len(block("`example_meter.py`:").splitlines()) <= MOST_LINES


def test_the_meter_is_found_and_read(site: Path, tmp_path: Path) -> None:
    power = tmp_path / "power_mw"
    power.write_text("250000", encoding="ascii")
    ran = joulefleet(site, "agent", "once", "--json", "--config", str(configuration(tmp_path, power)))
    assert ran.returncode == 0, ran.stderr
    (reading,) = msgspec.json.decode(ran.stdout)["example"]
    assert (reading["meter"], reading["power_mw"]) == ("example-0", 250_000)


def test_where_it_is_absent_the_doctor_tells_its_mend(site: Path, tmp_path: Path) -> None:
    ran = joulefleet(site, "doctor", "--config", str(configuration(tmp_path, tmp_path / "power_mw")))
    assert "install the Example driver" in ran.stdout, ran.stdout + ran.stderr
