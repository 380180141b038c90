"""Every source in a thread of its own: one that hangs, faults or ends hurts no other."""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from joulefleet.config import ConfigError
from joulefleet.describe import Engine, Meter
from joulefleet.reading import Failure, MeterReading, Reading, WorkReading
from joulefleet.source import ProcessMustEnd, Source, SourceGone, SourceUnavailable
from joulefleet_agent.clock import boot_ns
from joulefleet_agent.sampler import (
    Absent,
    Configured,
    Event,
    Gone,
    MustEnd,
    Opened,
    Reader,
    Refused,
    Said,
    stamped,
)

S = 1_000_000_000
MS = 1_000_000
BOARD = Meter(id="gpu0", kind="accelerator", grade="counter", sensor_class="onboard")
OTHER = Meter(id="gpu1", kind="accelerator", grade="counter", sensor_class="onboard")
VLLM = Engine(id="vllm@8000", software="vllm")
WAIT_S = 20


class Made:
    """A source whose reads are what a test says, read each 5 ms."""

    declares: tuple[Meter | Engine, ...] = (BOARD,)
    period_ns = 5 * MS
    deadline_ns = 10 * S

    def __init__(self, read: Callable[[], Sequence[Reading]]) -> None:
        self.read = read


class Sampler:
    """Readers over one queue of events."""

    def __init__(self, size: int = 10_000) -> None:
        self.events: queue.Queue[Event] = queue.Queue(size)
        self.stop = threading.Event()
        self.readers: list[Reader] = []

    def start(self, name: str, opener: Callable[[dict[str, Any]], Source]) -> Reader:
        """One more source."""

        def opens(table: dict[str, Any]) -> Source:
            return opener(table)

        reader = Reader(Configured(name, opens, {"key": "value"}), boot_ns, self.events, self.stop, reprobe_s=0.001)
        self.readers.append(reader)
        reader.start()
        return reader

    def next(self, kind: type[Event], source: str = "") -> Any:
        """The next event of this kind; others are passed over."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            event = self.events.get(timeout=WAIT_S)
            if isinstance(event, kind) and source in ("", event.source):
                return event
        raise AssertionError(f"no {kind.__name__} within {WAIT_S} s")


@pytest.fixture
def sampler() -> Iterator[Sampler]:
    made = Sampler()
    yield made
    made.stop.set()
    for reader in made.readers:
        reader.join(WAIT_S)
        assert not reader.is_alive()


def value(counter_uj: int) -> list[Reading]:
    return [MeterReading(meter="gpu0", counter_uj=counter_uj)]


def steady(numbers: Iterator[int]) -> Callable[[dict[str, Any]], Source]:
    return lambda _table: Made(lambda: value(next(numbers)))


def in_turn(*reads: Exception | list[Reading]) -> Callable[[], Sequence[Reading]]:
    """These in turn, then the last for ever."""
    left = list(reads)

    def read() -> Sequence[Reading]:
        one = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(one, Exception):
            raise one
        return one

    return read


def test_a_source_is_opened_with_its_table_and_read_again_and_again(sampler: Sampler) -> None:
    tables: list[dict[str, Any]] = []
    numbers = iter(range(10**6))

    def opener(table: dict[str, Any]) -> Source:
        tables.append(table)
        return Made(lambda: value(next(numbers)))

    before_ns = boot_ns()
    sampler.start("a", opener)
    assert sampler.next(Opened) == Opened("a", (BOARD,))
    told = [sampler.next(Said) for _ in range(4)]
    assert [one.readings[0].counter_uj for one in told] == [0, 1, 2, 3]
    assert before_ns <= told[0].boot_ns < told[1].boot_ns < told[2].boot_ns <= boot_ns()
    assert tables == [{"key": "value"}]


def test_a_source_that_declares_something_else_says_so_before_it_reads_it(sampler: Sampler) -> None:
    reads = iter(range(10**6))

    def read() -> Sequence[Reading]:
        if next(reads) == 2:
            made.declares = (BOARD, OTHER)
        return value(1)

    made = Made(read)
    sampler.start("a", lambda _table: made)
    assert sampler.next(Opened).declares == (BOARD,)
    kinds = [type(sampler.events.get(timeout=WAIT_S)) for _ in range(4)]
    assert kinds == [Said, Said, Opened, Said]


def test_a_source_that_hangs_for_ever_costs_the_others_no_reading(sampler: Sampler, tmp_path: Path) -> None:
    """The one reads a FIFO that nobody writes."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def read() -> Sequence[Reading]:
        with fifo.open() as lines:
            return value(int(lines.readline()))

    hanging = Made(read)
    hanging.deadline_ns = 1
    stuck = sampler.start("stuck", lambda _table: hanging)
    sampler.next(Opened, "stuck")
    sampler.start("well", steady(iter(range(10**6))))
    numbers = [sampler.next(Said, "well").readings[0].counter_uj for _ in range(20)]
    assert numbers == list(range(20))
    hung = stuck.overdue(boot_ns() + 90 * S)
    assert hung is not None
    assert (hung.subject, hung.code) == ("", "hung")
    assert stuck.overdue(stuck.busy_since_ns + 1) is None

    release(fifo)
    came_back = sampler.next(Said, "stuck")
    assert [one.code for one in came_back.readings] == ["hung"]
    sampler.stop.set()
    release(fifo)


def release(fifo: Path) -> None:
    """Answer a read that hangs, if one does."""
    try:
        end = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return
    os.write(end, b"7\n")
    os.close(end)


def test_when_a_hanging_source_answers_again_its_readings_count(sampler: Sampler) -> None:
    go_on, reads = threading.Event(), iter(range(10**6))

    def read() -> Sequence[Reading]:
        number = next(reads)
        if number == 1:
            assert go_on.wait(WAIT_S)
        return value(number)

    source = Made(read)
    source.deadline_ns = 60 * S
    reader = sampler.start("a", lambda _table: source)
    assert sampler.next(Said).readings[0].counter_uj == 0
    reader.deadline_ns = 0
    while reader.overdue(boot_ns() - 2 * Made.period_ns) is None:
        assert reader.is_alive()
    go_on.set()
    assert isinstance(sampler.next(Said).readings[0], Failure)
    reader.deadline_ns = 60 * S
    while not isinstance(sampler.next(Said).readings[0], MeterReading):
        assert reader.is_alive()
    assert reader.overdue(boot_ns()) is None


def test_a_source_that_hangs_while_it_is_opened_is_seen(sampler: Sampler) -> None:
    go_on = threading.Event()

    def opener(_table: dict[str, Any]) -> Source:
        assert go_on.wait(WAIT_S)
        return Made(lambda: value(1))

    reader = sampler.start("a", opener)
    while not reader.busy_since_ns:
        assert reader.is_alive()
    assert reader.overdue(boot_ns() + 9 * S) is None
    assert reader.overdue(boot_ns() + 11 * S) is not None
    go_on.set()
    sampler.next(Said)


@pytest.mark.parametrize(
    "fault", [ValueError("bad"), KeyError("x"), RecursionError(), MemoryError(), OSError(5, "I/O error")]
)
def test_a_source_that_faults_at_each_read_is_read_again(sampler: Sampler, fault: Exception) -> None:
    sampler.start("bad", lambda _table: Made(in_turn(fault)))
    sampler.start("well", steady(iter(range(10**6))))
    for _ in range(3):
        (failure,) = sampler.next(Said, "bad").readings
        assert (failure.subject, failure.code) == ("", "fault")
        assert type(fault).__name__ in failure.detail
    assert sampler.next(Said, "well").readings[0].counter_uj is not None


@pytest.mark.parametrize("nonsense", [None, 5, object()])
def test_a_source_that_gives_nonsense_is_at_fault_and_read_again(sampler: Sampler, nonsense: Any) -> None:
    sampler.start("bad", lambda _table: Made(in_turn(nonsense, value(5))))
    assert sampler.next(Said).readings[0].code == "fault"
    assert sampler.next(Said).readings[0].counter_uj == 5


def test_a_fault_is_logged_once(sampler: Sampler, caplog: pytest.LogCaptureFixture) -> None:
    sampler.start("bad", lambda _table: Made(in_turn(ValueError("no such key"))))
    for _ in range(4):
        sampler.next(Said)
    assert caplog.text.count("no such key") == 1


def test_unavailable_for_now_tells_its_code_and_is_read_again(sampler: Sampler) -> None:
    sampler.start("a", lambda _table: Made(in_turn(SourceUnavailable("busy", "in use"), value(3))))
    assert sampler.next(Said).readings == (Failure(subject="", code="busy", detail="in use"),)
    assert sampler.next(Said).readings[0].counter_uj == 3


def test_what_has_ended_is_not_read_again(sampler: Sampler) -> None:
    reader = sampler.start("a", lambda _table: Made(in_turn(value(1), SourceGone("end"))))
    assert sampler.next(Gone) == Gone("a")
    reader.join(WAIT_S)
    assert not reader.is_alive()


def test_what_only_a_new_process_can_mend_is_told(sampler: Sampler) -> None:
    sampler.start("a", lambda _table: Made(in_turn(ProcessMustEnd("driver upgraded"))))
    assert sampler.next(MustEnd) == MustEnd("a", "driver upgraded")


def test_also_while_it_is_opened(sampler: Sampler) -> None:
    def opener(_table: dict[str, Any]) -> Source:
        raise ProcessMustEnd("driver upgraded")

    sampler.start("a", opener)
    assert sampler.next(MustEnd) == MustEnd("a", "driver upgraded")


def test_an_absent_source_is_tried_until_it_is_there(sampler: Sampler) -> None:
    tries = iter(range(10**6))

    def opener(_table: dict[str, Any]) -> Source:
        number = next(tries)
        if number == 0:
            raise SourceUnavailable("absent", "no library", "install it")
        if number == 1:
            raise RuntimeError("half installed")
        return Made(lambda: value(1))

    sampler.start("a", opener)
    assert sampler.next(Absent) == Absent("a", "absent", "no library", "install it")
    assert sampler.next(Absent) == Absent("a", "fault", "RuntimeError: half installed")
    assert sampler.next(Opened) == Opened("a", (BOARD,))


class Ended(threading.Event):
    """An end that comes with the first wait, and knows how long that would have been."""

    waited_s: float | None = None

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_s = timeout
        self.set()
        return True


@pytest.mark.parametrize(("again_s", "waits_s"), [(0.0, 60.0), (30.0, 60.0), (600.0, 600.0)])
def test_a_source_that_asks_for_time_is_not_tried_before(again_s: float, waits_s: float) -> None:
    def opens(table: dict[str, Any]) -> Source:
        raise SourceUnavailable("permission", "wrong password", "", again_s)

    end = Ended()
    Reader(Configured("a", opens, {}), boot_ns, queue.Queue(), end, reprobe_s=60.0).run()
    assert end.waited_s == waits_s


def test_a_source_that_breaks_the_contract_is_at_fault(sampler: Sampler) -> None:
    shapeless: Any = object()
    sampler.start("a", lambda _table: shapeless)
    assert sampler.next(Absent).code == "fault"


def test_a_wrong_table_is_the_users_to_mend(sampler: Sampler) -> None:
    wrong = ConfigError("source x", "perod_s", "unknown")

    def opener(_table: dict[str, Any]) -> Source:
        raise wrong

    sampler.start("a", opener)
    assert sampler.next(Refused) == Refused("a", wrong)


def test_a_full_queue_drops_readings_and_counters_lose_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sampler, numbers, enough = Sampler(size=2), iter(range(10**6)), threading.Event()

    def read() -> Sequence[Reading]:
        number = next(numbers)
        if number == 10:
            enough.set()
        return value(number)

    reader = sampler.start("a", lambda _table: Made(read))
    assert enough.wait(WAIT_S)
    assert isinstance(sampler.events.get(), Opened)
    assert sampler.events.get().readings[0].counter_uj == 0  # type: ignore[union-attr] # the second event is Said
    assert sampler.next(Said).readings[0].counter_uj > 5
    assert "dropped" in caplog.text
    sampler.stop.set()
    reader.join(WAIT_S)
    assert not reader.is_alive()


def test_what_changes_a_sources_life_is_never_dropped() -> None:
    sampler = Sampler(size=1)
    sampler.start("a", lambda _table: Made(in_turn(SourceGone("end"))))
    first, second = sampler.events.get(timeout=WAIT_S), sampler.events.get(timeout=WAIT_S)
    assert (first, second) == (Opened("a", (BOARD,)), Gone("a"))


# Times and subjects


def test_readings_get_the_time_that_they_do_not_bring() -> None:
    own = MeterReading(meter="gpu0", at_ns=5, counter_uj=1)
    told = stamped([own, MeterReading(meter="gpu1", counter_uj=1), WorkReading(engine="e")], 9, ())
    assert [one.at_ns for one in told if not isinstance(one, Failure)] == [5, 9, 9]


def test_a_failure_without_subject_is_of_all_that_is_declared() -> None:
    lost = Failure(subject="gpu1", code="gpu_lost")
    told = stamped([Failure(subject="", code="timeout"), lost], 9, [BOARD, OTHER, VLLM])
    assert told == (
        Failure(subject="gpu0", code="timeout"),
        Failure(subject="gpu1", code="timeout"),
        Failure(subject="vllm@8000", code="timeout"),
        lost,
    )


def test_a_value_that_was_old_when_it_was_read_is_stamped_with_the_time_of_its_making() -> None:
    old, own = MeterReading(meter="bmc", power_mw=1, age_ns=4), MeterReading(meter="gpu0", at_ns=7, age_ns=4)
    began = WorkReading(engine="vllm@8000", age_ns=6)
    told = stamped([old, own, began], 9, ())
    assert [one.at_ns for one in told if not isinstance(one, Failure)] == [5, 7, 3]
