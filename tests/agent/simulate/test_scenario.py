"""Scenario files: what they may say, and what is refused by name."""

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from joulefleet.config import ConfigError
from joulefleet.units import NS_PER_S
from joulefleet_agent.simulate.catalogue import Deployment, Hardware
from joulefleet_agent.simulate.roster import roster
from joulefleet_agent.simulate.scenario import Change, Scenario, check, load_scenario

ROOT = Path(__file__).parents[3]
BEGIN_S = 1_767_225_600


def test_the_scenario_of_the_documentation_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/simulate.md").read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "lab.toml"
    path.write_text(text, encoding="utf-8")
    scenario = load_scenario(path)
    servers = roster(scenario)
    assert [server.name for server in servers] == [f"lab-000{number}" for number in range(1, 7)]
    assert scenario.begin_ns == 1_772_323_200 * NS_PER_S
    assert len(servers[1].faults) == len(servers[2].outages) == 1
    assert all(server.changes for server in servers)


def test_instants_fall_on_readings() -> None:
    scenario = Scenario(period_s=10)
    assert scenario.begin_ns == BEGIN_S * NS_PER_S
    assert scenario.instant_ns(0.5) == (BEGIN_S + 1800) * NS_PER_S
    assert scenario.instant_ns(0.0049) == (BEGIN_S + 10) * NS_PER_S


def test_time_ends_with_a_whole_window() -> None:
    assert Scenario(days=0.01, step_s=600).end_ns == (BEGIN_S + 600) * NS_PER_S


def test_an_hour_may_be_said_with_another_offset() -> None:
    india = timezone(timedelta(hours=5, minutes=30))
    with pytest.raises(ConfigError, match="begin: expected a whole hour"):
        check(Scenario(begin=datetime(2026, 1, 1, tzinfo=india)), "x")
    check(Scenario(begin=datetime(2026, 1, 1, 0, 30, tzinfo=india)), "x")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"step_s": 7.0}, "step_s: a window step of 7 s does not divide an hour"),
        ({"begin": datetime(2026, 1, 1, 0, 5, tzinfo=UTC)}, "begin: expected a whole hour"),
        ({"begin": datetime(2026, 1, 1)}, "begin: expected a whole hour"),  # the fault itself
        ({"begin": datetime(1970, 1, 1, tzinfo=UTC)}, "begin: expected a day after 1970-01-01"),
        ({"period_s": 7.0}, "period_s: expected a part of the window's step of 60 s"),
        ({"period_s": 120.0}, "period_s: expected a part"),
        ({"days": 0.0001}, "days: shorter than one window"),
        ({"hardware": (Hardware(name="a"), Hardware(name="a"))}, "hardware: two have one name"),
        ({"deployments": ()}, "deployments: expected at least one"),
        (
            {"deployments": (Deployment(pool="p", hardware="no", model="sim-8b"),)},
            r"deployments\[0\].hardware: 'no' is not among SIM-A8",
        ),
        (
            {"deployments": (Deployment(pool="p", hardware="SIM-A8", model="no"),)},
            r"deployments\[0\].model: 'no' is not among sim-8b",
        ),
        ({"hardware": (Hardware(name="SIM-A8", board_max_w=10.0),)}, "expected more than board_idle_w"),
        ({"changes": (Change(at_h=2.0, until_h=1.0),)}, r"changes\[0\].until_h: expected a time after at_h"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    small = {"deployments": (Deployment(pool="p", hardware="SIM-A8", model="sim-8b"),)}
    scenario = msgspec.structs.replace(Scenario(), **{**small, **changes})
    with pytest.raises(ConfigError, match=said):
        check(scenario, "here")


def test_an_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[[changes]]\nat_h = 1\nenergy = 5\n")
    with pytest.raises(ConfigError, match=r"changes\[0\].energy"):
        load_scenario(path)
