"""Where a person's own commands keep things."""

from pathlib import Path

import pytest

from joulefleet_agent.places import state_dir


def test_it_follows_the_xdg_convention(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_dir() == tmp_path / "joulefleet"


@pytest.mark.parametrize("said", [{}, {"XDG_STATE_HOME": ""}])
def test_without_it_there_is_a_place_at_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: dict[str, str]
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    for name, value in {"HOME": str(tmp_path), **said}.items():
        monkeypatch.setenv(name, value)
    assert state_dir() == tmp_path / ".local" / "state" / "joulefleet"
