"""Sources are found by entry point; one that is broken does not break the agent."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from joulefleet.config import ConfigError
from joulefleet.source import SourceUnavailable
from joulefleet_agent.config import SourceConfig
from joulefleet_agent.sources import configured, installed, on_this_machine, opener_of, tried_of, unasked


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone else's package, installed, with one good source and one whose module cannot be imported."""
    info = tmp_path / "strange-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[joulefleet.sources]\nstrange = strange_good:open\nbroken = strange_bad:open\nmissing = strange_good:no_such\n"
    )
    (tmp_path / "strange_good.py").write_text("def open(table):\n    return table\n")
    (tmp_path / "strange_bad.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    for name in ("strange_good", "strange_bad"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_built_in_sources_are_there() -> None:
    assert {"nvml", "rapl", "simulated", "openmetrics"} <= set(installed())


def test_a_source_of_someone_else_is_found(strange: None) -> None:
    assert "strange" in installed()
    opened: object = opener_of("strange", "agent.toml")({"key": 5})
    assert opened == {"key": 5}


@pytest.mark.parametrize(("name", "reason"), [("broken", "a_library_that_is_not_there"), ("missing", "no_such")])
def test_a_source_that_cannot_be_imported_cannot_be_opened(strange: None, name: str, reason: str) -> None:
    opener = opener_of(name, "agent.toml")
    with pytest.raises(SourceUnavailable, match=reason) as error:
        opener({})
    assert error.value.code == "fault"


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"agent\.toml: sources: no source is named 'nvlm'; there are .*nvml"
    ) as error:
        configured([SourceConfig("nvlm", {})], "agent.toml")
    assert error.value.key == "sources"


def test_one_source_used_twice_has_two_names() -> None:
    tables: list[dict[str, Any]] = [{"url": "a"}, {}, {"url": "b"}]
    uses = ["openmetrics", "simulated", "openmetrics"]
    told = configured([SourceConfig(use, table) for use, table in zip(uses, tables, strict=True)], "agent.toml")
    assert [one.name for one in told] == ["openmetrics", "simulated", "openmetrics#2"]
    assert [one.table for one in told] == tables


def test_recordings_and_simulations_are_not_tried_unasked() -> None:
    tables = {one.use: one.table for one in on_this_machine()}
    assert {"nvml", "rapl", "host_model", "openmetrics", "found"} <= set(tables) <= set(installed())
    assert not {"mlperf", "nvidia_smi", "simulated"} & set(tables)
    assert tables["nvml"] == {} and tables["found"] == {}


def test_a_stranger_is_tried_too_and_need_not_say_how_far_it_was(strange: None) -> None:
    assert {"strange", "broken"} <= {one.use for one in on_this_machine()}
    assert [tried_of(name) for name in ("strange", "broken", "nowhere")] == ["", "", ""]


def test_one_that_needs_a_config_is_absent_where_nobody_asked_for_it(strange: None) -> None:
    asked = configured([SourceConfig("openmetrics", {}), SourceConfig("strange", {})], "agent.toml")
    with pytest.raises(ConfigError):
        asked[0].opener(asked[0].table)
    one, other = unasked(asked)
    with pytest.raises(SourceUnavailable, match="url") as error:
        one.opener(one.table)
    assert error.value.code == "needs_configuration"
    opened: object = other.opener({"key": 5})
    assert opened == {"key": 5}


def test_only_a_table_is_where_a_source_is_tried(strange: None, tmp_path: Path) -> None:
    module = tmp_path / "strange_good.py"
    module.write_text(module.read_text() + 'HERE = "a word"\n')
    assert {one.use: one.table for one in on_this_machine()}["strange"] == {}
