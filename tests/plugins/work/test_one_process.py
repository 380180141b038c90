"""An address at which now one process answers and now another has no counts; one that is started anew has."""

import pytest

from joulefleet_plugins.work.one_process import CALM_READS, MOST_REMEMBERED, OneProcess


def told(*pages: tuple[str, int]) -> list[bool]:
    process = OneProcess()
    return [process.is_one(*page) for page in pages]


@pytest.mark.parametrize(
    "pages",
    [
        [("1.5", 10), ("1.5", 10), ("1.5", 20)],
        [("1.5", 10), ("2.5", 0), ("3.5", 5), ("4.5", 5)],
        [("", 10), ("", 3), ("", 4), ("", 90)],
        [("", 10), ("", 3), *[("", 4)] * CALM_READS, ("", 0)],
        [("", 0), ("1.5", 5), ("", 5), ("1.5", 9)],
    ],
)
def test_one_that_is_started_anew_now_and_then_is_one(pages: list[tuple[str, int]]) -> None:
    assert told(*pages) == [True] * len(pages)


def test_a_process_that_comes_back_had_never_ended() -> None:
    assert told(("1.5", 10), ("2.5", 50), ("1.5", 10)) == [True, True, False]
    assert told(("1.5", 10), ("2.5", 50), ("3.5", 7), ("2.5", 50)) == [True, True, True, False]


def test_counts_that_fall_again_and_again_are_those_of_several() -> None:
    assert told(("", 50), ("", 10), ("", 50), ("", 10), ("", 50)) == [True, True, True, False, False]
    calm = told(("", 50), ("", 10), ("", 50), *[("", 10)] * (CALM_READS + 1))
    assert calm[3:] == [False] * CALM_READS + [True], "it was started twice, and goes on"


def test_of_those_that_were_mixed_nothing_is_believed_again_but_another_one_is() -> None:
    process = OneProcess()
    for epoch in ("1.5", "2.5", "1.5"):
        process.is_one(epoch, 10)
    assert not any(process.is_one("1.5", 10) for _ in range(3 * CALM_READS))
    assert process.is_one("3.5", 10), "the only one by now"


def test_what_is_remembered_is_bounded() -> None:
    process = OneProcess()
    assert all(process.is_one(str(number), 1) for number in range(MOST_REMEMBERED + 3))
    assert process.is_one("0", 1), "so long ago is forgotten"
    assert not process.is_one(str(MOST_REMEMBERED), 1)
