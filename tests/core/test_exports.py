"""The public face: what an author of a source may rely on."""

import re
import runpy
from pathlib import Path

import pytest

import joulefleet

ROOT = Path(__file__).parents[2]


def test_the_public_names_are_these() -> None:
    assert joulefleet.__all__ == [
        "WHOLE",
        "ConfigError",
        "Counts",
        "Engine",
        "Failure",
        "Histogram",
        "Kind",
        "Meter",
        "MeterReading",
        "ProcessMustEnd",
        "Reading",
        "Reservation",
        "Slice",
        "Source",
        "SourceGone",
        "SourceUnavailable",
        "WorkKey",
        "WorkReading",
        "typed",
    ]
    assert all(hasattr(joulefleet, name) for name in joulefleet.__all__)


def test_the_example_of_the_documentation_is_a_source(tmp_path: Path) -> None:
    text = (ROOT / "docs/sources.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    module = tmp_path / "example.py"
    module.write_text(code, encoding="utf-8")
    names = runpy.run_path(str(module))
    power = tmp_path / "power_mw"
    with pytest.raises(joulefleet.SourceUnavailable, match="install the Example driver"):
        names["open"]({"path": str(power)})
    power.write_text("250000", encoding="ascii")
    (reading,) = names["open"]({"path": str(power)}).read()
    assert reading == joulefleet.MeterReading(meter="example-0", power_mw=250_000)
