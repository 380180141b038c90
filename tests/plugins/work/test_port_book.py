"""Which ports are asked for a page: each once, again where it may have one later, anew where another server listens."""

from hypothesis import given
from hypothesis import strategies as st

from joulefleet.sockets import Listening
from joulefleet_plugins.work.port_book import DANGEROUS, LONGEST_WAIT_LOOKS, Port, PortBook, ports_of

HANDED_OUT = range(32768, 61000)


def port(number: int, *inodes: str) -> Port:
    return Port(number, "127.0.0.1", frozenset(inodes or (f"i{number}",)))


def looked(book: PortBook, *ports: Port, at_s: float = 0.0) -> list[int]:
    return [one.number for one in book.look({one.number: one for one in ports}, at_s)]


def test_a_port_without_a_page_is_asked_once_until_another_process_listens_there() -> None:
    book = PortBook(HANDED_OUT)
    assert looked(book, port(8000)) == [8000]
    book.note(port(8000), "never")
    assert [looked(book, port(8000)) for _ in range(200)] == [[]] * 200
    assert looked(book, port(8000, "another")) == [8000]
    book.note(port(8000, "another"), "never")
    # One of several workers that share a port may come and go.
    assert looked(book, port(8000, "another", "third")) == []
    assert looked(book, port(8000, "third")) == []
    assert looked(book) == [] and looked(book, port(8000, "third")) == [8000]


def test_a_server_that_may_have_a_page_later_is_asked_less_and_less_often() -> None:
    book, asked = PortBook(HANDED_OUT), []
    for look in range(400):
        if looked(book, port(8000)):
            asked.append(look)
            book.note(port(8000), "later")
    assert asked == [0, 1, 3, 7, 15, 31, 63, 127, 191, 255, 319, 383]
    assert asked[-1] - asked[-2] == LONGEST_WAIT_LOOKS


def test_ports_that_are_dangerous_privileged_or_skipped_are_left_alone_unless_they_are_named() -> None:
    ports = [port(number) for number in (80, 1023, 1024, 6379, 8000, 8765, 9000)]
    assert looked(PortBook(HANDED_OUT, skip=[9000]), *ports) == [1024, 8000]
    assert looked(PortBook(HANDED_OUT, only=[80, 6379]), *ports) == [80, 6379]
    assert all(DANGEROUS.values())


def test_a_port_that_the_system_hands_out_is_asked_once_it_has_stayed() -> None:
    book = PortBook(HANDED_OUT)
    assert looked(book, port(40000), port(41000)) == []
    assert looked(book, port(40000)) == [40000]
    assert looked(PortBook(HANDED_OUT, only=[40000]), port(40000)) == [40000]


def test_when_a_port_was_last_seen_silent_is_known_of_those_that_came_later() -> None:
    book = PortBook(HANDED_OUT)
    looked(book, port(8000), at_s=10)
    looked(book, port(8000), port(8001), at_s=70)
    looked(book, port(8000, "another"), port(8001), at_s=130)
    assert [book.absent_s(number) for number in (8000, 8001, 8002)] == [70, 10, None]


def test_what_is_noted_of_a_port_that_ended_meanwhile_changes_nothing() -> None:
    book = PortBook(HANDED_OUT)
    looked(book, port(8000))
    looked(book, port(8000, "another"))
    book.note(port(8000), "never")
    book.note(port(8001), "never")
    assert looked(book, port(8000, "another")) == [8000]


def test_sockets_of_one_port_are_one_and_the_address_of_configs_is_taken() -> None:
    sockets = [Listening(8000, "1", "::1"), Listening(8000, "2"), Listening(8001, "3", "::1")]
    assert ports_of(sockets) == {8000: port(8000, "1", "2"), 8001: Port(8001, "::1", frozenset("3"))}


@given(st.lists(st.sets(st.integers(1024, 1100)), max_size=20))
def test_no_more_is_remembered_than_listens(looks: list[set[int]]) -> None:
    book = PortBook(HANDED_OUT)
    for numbers in looks:
        due = looked(book, *map(port, numbers))
        assert set(due) <= numbers
        for number in due:
            book.note(port(number), "later" if number % 2 else "never")
        assert len(book._known) <= len(numbers)
