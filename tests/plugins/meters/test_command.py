"""The `exec` source over fake tools: what is declared, read and refused, and that no secret is told."""

import contextlib
import json
import os
import re
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet.source import SourceUnavailable
from joulefleet_plugins.meters import command
from joulefleet_plugins.meters.command import Stream

POWER = {"id": "card", "json": {"power_w": "/power"}, "max_power_w": 500.0}
CARDS = {"id": "hl", "pattern": r"(?m)^(?P<id>\d+), (?P<power_w>[^,]+), (?P<power_limit_w>\d+ W)$"}
Make = Callable[[str], str]


@pytest.fixture
def tool(tmp_path: Path) -> Make:
    """Makes a tool of the lines of a shell script; gives its path."""

    def make(script: str) -> str:
        path = tmp_path / "vendor-smi"
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
        path.chmod(0o755)
        return str(path)

    return make


def config(path: str, *meters: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {"command": [path], "meters": list(meters or [POWER]), "timeout_s": 20, **keys}


def declared(source: Any) -> list[Meter]:
    return [one for one in source.declares if isinstance(one, Meter)]


def failure(readings: Any) -> Failure:
    (one,) = readings
    assert isinstance(one, Failure), one
    return one


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_tool_is_run_for_each_reading(tool: Make) -> None:
    source = command.open(config(tool('echo \'{"power": "43.9 W"}\'')))
    for _ in range(2):
        assert source.read() == [MeterReading(meter="card", power_mw=43_900)]
    assert [one.id for one in declared(source)] == ["card"]


def test_several_tables_find_their_values_in_one_output(tool: Make, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    path = tool(f"echo x >> {runs}; echo 'in 900 W out 800 W'")
    tables = [
        {"id": "in", "kind": "server", "pattern": r"in (?P<power_w>\d+)", "max_power_w": 3000},
        {"id": "out", "kind": "host", "pattern": r"out (?P<power_w>\d+)", "max_power_w": 3000},
    ]
    assert command.open(config(path, *tables)).read() == [
        MeterReading(meter="in", power_mw=900_000),
        MeterReading(meter="out", power_mw=800_000),
    ]
    assert runs.read_text() == "x\n"


def test_cards_are_found_when_the_source_is_opened(tool: Make) -> None:
    source = command.open(config(tool("echo '0, 226 W, 850 W'; echo '1, N/A, 850 W'"), CARDS))
    assert [(one.id, one.max_power_mw) for one in declared(source)] == [("hl-0", 850_000), ("hl-1", 850_000)]
    first, second = source.read()
    assert first == MeterReading(meter="hl-0", power_mw=226_000)
    assert isinstance(second, Failure)
    assert second.code == "no_value"


def test_a_tool_that_is_absent_is_told_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable) as raised:
        command.open(config("no-such-vendor-smi"))
    assert (raised.value.code, raised.value.mend) == ("absent", "install it, or write its full path")
    plain = tmp_path / "plain"
    plain.write_text("")
    with pytest.raises(SourceUnavailable) as raised:
        command.open(config(str(plain)))
    assert raised.value.code == "permission"


def test_a_tool_that_does_not_tell_its_cards_is_unavailable(tool: Make) -> None:
    for script, code in (("exit 1", "exit_status"), ("echo no card", "absent")):
        path = tool(script)
        with pytest.raises(SourceUnavailable) as raised:
            command.open(config(path, CARDS))
        assert (raised.value.code, raised.value.mend) == (code, f"try it: {path}")


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 1", "exit_status"),
        ("sleep 600", "timeout"),
        ("head -c 5000000 /dev/zero", "too_large"),
        ("echo banner", "malformed"),
        ("echo '{}'", "no_value"),
        ("true", "malformed"),
        ("echo '{\"power\": 0}'", "no_value"),
        ("echo '{\"power\": -4}'", "implausible"),
        ("echo '{\"power\": 1e300}'", "implausible"),
        ("printf '\\377\\376{'", "malformed"),
    ],
)
def test_a_tool_that_fails_gives_a_reason_and_no_power(tool: Make, script: str, code: str) -> None:
    source = command.open(config(tool(script), timeout_s=1 if code == "timeout" else 20))
    assert failure(source.read()).code == code


def test_the_deadline_is_beyond_the_time_limit(tool: Make) -> None:
    source = command.open(config(tool("true"), timeout_s=3))
    assert source.deadline_ns > 3_000_000_000


def test_secrets_reach_the_tool_and_nobody_else(tool: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2-from-file\n")
    monkeypatch.setenv("BMC_USER", "operator-of-bmc")
    monkeypatch.setenv("OTHER", "not-handed-on")
    path = tool('echo "$BMC_PASSWORD $BMC_USER $OTHER $MODE $LC_ALL" >&2; exit 1')
    keys = {"secrets": {"BMC_PASSWORD": str(password)}, "inherit": ["BMC_USER"], "environment": {"MODE": "lan"}}
    assert failure(command.open(config(path, **keys)).read()).detail.endswith("status 1: *** ***  lan C")
    repeated = tool('echo "{\\"power\\": \\"$BMC_PASSWORD\\"}"')
    assert "hunter2" not in failure(command.open(config(repeated, **keys)).read()).detail
    with pytest.raises(SourceUnavailable) as raised:
        command.open(config(tool('echo "$BMC_PASSWORD" >&2; exit 1'), CARDS, **keys))
    assert "hunter2" not in f"{raised.value!r} {raised.value.__cause__!r}"


def test_a_config_that_cannot_be_used_is_refused(tool: Make) -> None:
    path = tool("true")
    for table, said in (
        ({}, "command"),
        ({"command": [], "meters": [POWER]}, "command"),
        (config(path, tiemout_s=3), "tiemout_s"),
        ({"command": [path], "meters": []}, "meters"),
        (config(path, CARDS, stream=True), "ids"),
        (config(path, secrets={"P": "/no/such/file"}), "the secret cannot be read"),
        ({**config(path), "command": f"{path} --json"}, "command"),
    ):
        with pytest.raises(ConfigError, match=said):
            command.open(table)


def test_the_configuration_of_the_documentation_reads_what_it_says(tool: Make) -> None:
    page = (Path(__file__).parents[3] / "docs/meters/exec.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    dcmi, rbln = (dict(one) for one in tomllib.loads(text)["sources"])
    assert dcmi.pop("use") == rbln.pop("use") == "exec"
    path = tool("echo '    Instantaneous power reading:                   332 Watts'")
    assert command.open({**dcmi, "command": [path]}).read() == [MeterReading(meter="bmc", power_mw=332_000)]
    path = tool(
        """echo '{"devices": [{"uuid": "u1", "name": "RBLN-CA12", "card_power": "43.9W", "temperature": "38C"}]}'"""
    )
    source = command.open({**rbln, "command": [path]})
    assert source.read() == [MeterReading(meter="rbln-u1", power_mw=43_900, gauges={"temperature_c": 38.0})]
    assert declared(source)[0].hw_model == "RBLN-CA12"


class Clock:
    now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns


class Wall(Clock):
    now_ns = 1_795_384_800_000_000_000


@contextlib.contextmanager
def stream(path: str, *tables: dict[str, Any], clock: Clock) -> Iterator[Stream]:
    opened = command.open(config(path, *tables, stream=True, period_s=1))
    assert isinstance(opened, Stream)
    opened._lines.end()
    made = Stream(opened._tool, opened._bound, opened.period_ns, Wall(), clock)
    yield made
    made._lines.end()


def waited(source: Stream, number: int) -> list[Reading]:
    found: list[Reading] = []

    def enough() -> bool:
        found.extend(source.read())
        return len(found) >= number

    until(enough)
    return found


def test_lines_of_a_stream_are_readings_with_their_age(tool: Make, tmp_path: Path) -> None:
    clock, go = Clock(), tmp_path / "go"
    os.mkfifo(go)
    path = tool(f"echo heading; echo 'card 100 W'; cat {go}; echo 'card 200 W'; echo 'card ? W'; sleep 600")
    table = {"id": "card", "pattern": r"card (?P<power_w>\S+ W)", "max_power_w": 500}
    with stream(path, table, clock=clock) as source:
        until(lambda: len(source._lines._tool.lines) == 2)
        clock.now_ns += 700
        assert source.read() == [MeterReading(meter="card", power_mw=100_000, age_ns=700)]
        assert source.read() == []
        go.write_text("")
        second, third = waited(source, 2)
        assert second == MeterReading(meter="card", power_mw=200_000)
        assert isinstance(third, Failure)


def test_a_stream_that_tells_its_times_is_not_taken_for_newer(tool: Make) -> None:
    clock = Clock()
    told = json.dumps({"p": 5, "t": Wall.now_ns - 250})
    table = {"id": "card", "json": {"power_w": "/p", "time_ns": "/t"}, "max_power_w": 500}
    with stream(tool(f"echo '{told}'; sleep 600"), table, clock=clock) as source:
        until(lambda: len(source._lines._tool.lines) == 1)
        clock.now_ns += 50
        assert source.read() == [MeterReading(meter="card", power_mw=5_000, age_ns=250)]


def test_a_stream_that_falls_silent_is_stale_and_started_again(tool: Make, tmp_path: Path) -> None:
    clock, starts = Clock(), tmp_path / "starts"
    table = {"id": "card", "pattern": r"card (?P<power_w>\d+ W)", "max_power_w": 500}
    with stream(tool(f"echo x >> {starts}; echo 'card 100 W'; sleep 600"), table, clock=clock) as source:
        assert waited(source, 1) == [MeterReading(meter="card", power_mw=100_000)]
        began = starts.read_text()
        clock.now_ns += 9_000_000_000
        assert source.read() == []
        clock.now_ns += 2_000_000_000
        assert failure(source.read()).code == "stale"
        assert failure(source.read()).code == "ended"
        assert waited(source, 1) == [MeterReading(meter="card", power_mw=100_000)]
        assert starts.read_text() == began + "x\n"


def test_a_card_that_falls_silent_among_others_is_stale(tool: Make, tmp_path: Path) -> None:
    clock, go = Clock(), tmp_path / "go"
    os.mkfifo(go)
    table = {"id": "c", "pattern": r"c(?P<id>\d) (?P<power_w>\d+)", "ids": ["0", "1"], "max_power_w": 500}
    with stream(tool(f"echo 'c0 5'; echo 'c1 6'; cat {go}; echo 'c0 7'; sleep 600"), table, clock=clock) as source:
        assert len(waited(source, 2)) == 2
        clock.now_ns += 11_000_000_000
        go.write_text("")
        until(lambda: bool(source._lines._tool.lines))
        told, silent = source.read()
        assert told == MeterReading(meter="c-0", power_mw=7_000)
        assert (silent.subject, silent.code) == ("c-1", "stale") if isinstance(silent, Failure) else False


def test_a_stream_that_ends_says_so(tool: Make) -> None:
    table = {"id": "card", "pattern": r"card (?P<power_w>\d+)", "max_power_w": 500}
    with stream(tool("echo 'driver gone' >&2; exit 4"), table, clock=Clock()) as source:
        (told,) = waited(source, 1)
        assert isinstance(told, Failure)
        assert told.code == "ended"
        assert "status 4: driver gone" in told.detail
