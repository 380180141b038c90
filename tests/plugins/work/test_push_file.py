"""What was answered is on disk: it is there again for the next process, whole, and for one process at a time."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from joulefleet.reading import Counts, WorkKey
from joulefleet_plugins.work.push_book import Book, Sender
from joulefleet_plugins.work.push_file import PushFile, Unkept

CHANGE = Book(
    {"e": {WorkKey("M", "", "a 'tenant'"): Counts(requests_ok=3, busy_ns=2**60), WorkKey("N"): Counts()}},
    {"s": Sender(7, 1_790_000_000.5, "life", False, {"e": {WorkKey("M"): Counts(output_tokens=1)}})},
)


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Callable[[], PushFile]]:
    files: list[PushFile] = []

    def make() -> PushFile:
        files.append(PushFile(tmp_path / "push.db"))
        return files[-1]

    yield make
    for file in files:
        file.close()


def test_what_was_written_is_there_again(opening: Callable[[], PushFile]) -> None:
    file = opening()
    assert file.book() == Book()
    life = file.life()
    file.write(CHANGE)
    file.begin("e")
    file.begin("e")
    file.close()
    again = opening()
    assert again.book() == CHANGE
    assert (again.life(), again.begun()) == (life, {"e"})


def test_a_later_change_takes_the_place_of_an_earlier_one(opening: Callable[[], PushFile]) -> None:
    file = opening()
    file.write(CHANGE)
    later = Book({"e": {WorkKey("M"): Counts(requests_ok=4)}}, {"t": Sender(1, 0.0)}, frozenset({"s"}))
    file.write(later)
    assert file.book() == CHANGE.after(later)
    assert file.book().senders.keys() == {"t"}


def test_another_file_is_another_life(tmp_path: Path) -> None:
    lives = set()
    for name in ("a", "b"):
        file = PushFile(tmp_path / name)
        lives.add(file.life())
        file.close()
    assert len(lives) == 2


def test_two_processes_cannot_have_it(opening: Callable[[], PushFile]) -> None:
    opening()
    with pytest.raises(Unkept, match="locked"):
        opening()


def test_a_file_that_is_none_is_said_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "push.db"
    path.write_bytes(b"no database" * 1_000)
    with pytest.raises(Unkept, match=r"push\.db"):
        PushFile(path)
    assert path.read_bytes().startswith(b"no database")
    with pytest.raises(Unkept):
        PushFile(tmp_path / "absent" / "push.db")


def test_a_change_that_cannot_be_kept_whole_is_not_kept_at_all(opening: Callable[[], PushFile], tmp_path: Path) -> None:
    file = opening()
    file.close()
    with sqlite3.connect(tmp_path / "push.db") as database:
        database.execute(
            "CREATE TRIGGER t BEFORE INSERT ON kept WHEN new.kind = 'sender' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    database.close()
    file = opening()
    with pytest.raises(Unkept, match="no"):
        file.write(CHANGE)
    assert file.book() == Book(), "its counters came before its sender"
    file.write(Book({"e": {}}))
