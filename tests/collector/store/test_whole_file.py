"""A file for a person: whole, or not there."""

from pathlib import Path

import pytest

from joulefleet_collector.store.store import StoreUnavailable
from joulefleet_collector.store.whole_file import whole_file


def test_it_is_there_when_all_is_written_and_nothing_beside_it(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as part:
        part.write_text("all")
        assert not (tmp_path / "a").exists()
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "all"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a") as part:
        part.write_text("half")
        part.with_name(part.name + "-journal").write_text("")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with (
        pytest.raises(StoreUnavailable, match=r"a: it is already there; name another file"),
        whole_file(tmp_path / "a"),
    ):
        pass
    assert (tmp_path / "a").read_text() == "mine"


def test_what_a_killed_one_left_is_begun_anew(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as part:
        name = part
        part.write_text("first")
    name.write_text("left over")
    with whole_file(tmp_path / "b") as part:
        part.write_text("b")
    with pytest.raises(StoreUnavailable), whole_file(tmp_path / "a"):
        pass
    (tmp_path / "a").unlink()
    with whole_file(tmp_path / "a") as part:
        assert part.read_text() == ""
        part.write_text("second")
    assert (tmp_path / "a").read_text() == "second"


def test_a_folder_that_is_not_there_is_told_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="No such file"), whole_file(tmp_path / "none" / "a"):
        raise ZeroDivisionError


def test_only_its_user_may_read_it(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a"):
        pass
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
