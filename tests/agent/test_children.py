"""Processes of our own: they end with whom they belong to, and say why where they end by themselves."""

from pathlib import Path

import pytest

from joulefleet_agent.children import CannotGoOn, Children


def test_a_process_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("agent", "agent", "run", "--config", "/nonexistent.toml")
        assert child.wait() == 2
        with pytest.raises(CannotGoOn, match=r"^the agent ended: .*/nonexistent\.toml.* does not exist\. \(log: .*\)$"):
            children.check()


def test_all_processes_end_with_the_block(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        options = ("--port", "0", "--data-dir", str(tmp_path / "data"))
        collectors = [children.start(name, "collector", "run", *options) for name in ("one", "other")]
        assert collectors[0].stdout is not None and "listens on" in collectors[0].stdout.readline()
        children.check()
    assert [child.poll() is not None for child in collectors] == [True, True]
