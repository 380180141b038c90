"""A kept file is read by its descriptor, and found where it is now when that goes bad."""

import errno
import os
from pathlib import Path

import pytest

from fixtures.sysfs import SysfsFile, lose
from joulefleet_plugins.interfaces.kept_file import KeptFile, failure, number_in, said


@pytest.fixture
def file(tmp_path: Path) -> SysfsFile:
    return SysfsFile(tmp_path / "hwmon3" / "power1_input", 41)


def test_each_read_tells_the_number_of_now(file: SysfsFile) -> None:
    kept = KeptFile(lambda: file.path)
    assert kept.number() == 41
    file.show(7)
    assert kept.number() == 7


def test_a_file_that_moved_is_found_again_and_lives_on(file: SysfsFile, tmp_path: Path) -> None:
    kept = KeptFile(lambda: next(tmp_path.glob("hwmon*/power1_input")))
    kept.text()
    life = kept.life
    lose(file.path)
    file.path.parent.rename(tmp_path / "hwmon5")
    assert (kept.number(), kept.life) == (41, life)


def test_a_file_that_was_made_anew_has_another_life(file: SysfsFile) -> None:
    kept = KeptFile(lambda: file.path)
    kept.text()
    life = kept.life
    lose(file.path)
    file.path.rename(file.path.with_name("old"))
    file.path.write_text("5\n")
    assert kept.number() == 5
    assert kept.life != life


@pytest.mark.parametrize(("fault", "code"), [("fails", "read_failed"), ("gone", "sensor_gone")])
def test_a_file_that_cannot_be_read_raises_until_it_can(file: SysfsFile, fault: str, code: str) -> None:
    kept = KeptFile(lambda: file.path)
    file.fault(fault)
    for _ in range(2):
        with pytest.raises(OSError) as raised:
            kept.number()
        assert failure("m", raised.value).code == code
    file.mend()
    assert kept.number() == 41


@pytest.mark.parametrize(("number", "asked"), [(errno.ETIMEDOUT, 1), (errno.ENODEV, 2)])
def test_a_device_that_does_not_answer_is_not_asked_twice(
    file: SysfsFile, monkeypatch: pytest.MonkeyPatch, number: int, asked: int
) -> None:
    kept = KeptFile(lambda: file.path)
    asks: list[int] = []

    def refuse(descriptor: int, _size: int, _offset: int) -> bytes:
        asks.append(descriptor)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("joulefleet_plugins.interfaces.kept_file.os.pread", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        kept.text()
    assert len(asks) == asked


@pytest.mark.parametrize("fault", ["rubbish", "empty", "nan", "negative"])
def test_text_that_is_no_number_is_a_failed_read(file: SysfsFile, fault: str) -> None:
    kept = KeptFile(lambda: file.path)
    file.fault(fault)
    with pytest.raises(ValueError, match=r"invalid literal|below 0") as raised:
        kept.number()
    assert failure("m", raised.value).code == "read_failed"


def test_a_missing_right_is_told() -> None:
    assert failure("m", PermissionError("no")).code == "permission"


def test_what_is_read_once_may_be_missing(file: SysfsFile, tmp_path: Path) -> None:
    assert (said(file.path), number_in(file.path)) == ("41", 41)
    assert (said(tmp_path / "none"), number_in(tmp_path / "none")) == ("", None)
