"""What can be read on a machine, and what is said of each source that cannot."""

import os
from importlib import invalidate_caches
from pathlib import Path

import pytest

from fixtures.faulty import install
from joulefleet.config import ConfigError
from joulefleet_agent.config import SourceConfig
from joulefleet_agent.probe import Finding, agreements_of, probe


def find(use: str, deadline_s: float = 10.0, **table: object) -> Finding:
    (found,) = probe([SourceConfig(use, table)], "test", deadline_s)
    return found


def test_a_source_that_answers_is_readable_and_says_what_it_has() -> None:
    found = find("simulated", boards=2)
    assert found.readable and found.detail == ""
    assert [meter.id for meter in found.meters] == ["sim-board0", "sim-board1", "sim-server"]
    assert [engine.id for engine in found.engines] == ["sim-engine"]
    assert found.read_ms is not None and found.read_ms > 0


def test_a_source_that_tells_a_difference_is_readable_from_its_second_read_on() -> None:
    assert find("host_model").readable


def test_a_source_that_is_not_here_says_why_and_what_to_do(tmp_path: Path) -> None:
    found = find("rapl", root=str(tmp_path))
    assert (found.state, found.readable, found.read_ms) == ("absent", False, None)
    assert str(tmp_path) in found.detail
    assert "modprobe intel_rapl_msr" in found.mend


def test_a_page_that_does_not_answer_is_no_readable_engine() -> None:
    found = find("openmetrics", url="http://127.0.0.1:9")
    assert (found.state, found.readable) == ("scrape_failed", False)


def test_faulty_sources_hold_no_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "faulty")
    monkeypatch.syspath_prepend(tmp_path / "faulty")
    invalidate_caches()
    fifo = tmp_path / "faulty" / "fifo"
    tables = [("hangs", {"fifo": str(fifo)}), ("raises", {}), ("simulated", {})]
    found = probe([SourceConfig(use, table) for use, table in tables], "test", deadline_s=2.0)
    assert [one.state for one in found] == ["hung", "fault", "readable"]
    assert found[0].detail == "no answer within 2 s"
    assert found[1].detail == "RuntimeError: the sensor speaks in tongues"
    os.close(os.open(fifo, os.O_WRONLY))  # lets the thread that hangs end


def test_a_recording_that_is_over_is_empty() -> None:
    assert find("simulated", from_s=1_800_000_001, until_s=1_800_000_000).state == "empty"


def test_a_table_that_a_source_cannot_use_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        find("simulated", peroid_s=1)
    assert str(caught.value).startswith("test: source simulated: peroid_s: ")


def test_a_name_that_no_source_has_is_named() -> None:
    with pytest.raises(ConfigError, match="no source is named 'nvlm'"):
        find("nvlm")


def test_a_source_that_nobody_asked_for_is_told_to_need_its_key() -> None:
    (found,) = probe([SourceConfig("openmetrics", {})], "test", unasked=True)
    assert (found.state, found.detail) == ("needs_configuration", "url: object missing required field `url`")


def test_what_is_watched_tells_power_refresh_and_cost() -> None:
    (found,) = probe([SourceConfig("simulated", {"boards": 1, "daily_swing": 0.0})], "test", watch_s=0.5)
    board, server = found.seen
    assert board.reads >= 2 and server.reads == board.reads
    assert found.read_ms is not None and found.cpu_ms is not None and found.cpu_ms > 0
    assert board.counter_w == pytest.approx(board.gauge_w, rel=0.5)
    assert board.refresh_s is not None and board.refresh_s > 0
    assert [one.one for one in agreements_of([found])] == ["simulated counter"] * 2


def test_it_is_said_how_far_a_source_was_tried() -> None:
    assert [find(use).tried for use in ("simulated", "host_model")] == ["simulated", "on hardware"]
