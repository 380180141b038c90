"""A hosted agent of a soak: what it cuts is the truth, also when its process was killed in between."""

import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from joulefleet.delivery import Rejected
from joulefleet.units import NS_PER_S, uj_to_j
from joulefleet.window import Window, decode
from joulefleet_agent.reply import Delivered, Halve, Verdict, Wait
from joulefleet_agent.simulate.roster import SimServer
from soak.fleet import fleet, holes, told, truth
from soak.host import BOUNDS, CountedLink, CountedSpool, Hosted
from soak.tally import Tally

BEGIN_NS = 1_790_000_000 * NS_PER_S


@pytest.fixture
def server() -> SimServer:
    return next(iter(fleet(1, 3, BEGIN_NS).values()))


def second(number: int) -> int:
    return BEGIN_NS + number * NS_PER_S


def windows_of(folder: Path, server: SimServer) -> list[Window]:
    with closing(sqlite3.connect(folder / f"{server.name}.db")) as db:
        return [decode(body) for (body,) in db.execute("SELECT body FROM windows ORDER BY start_ns")]


@pytest.fixture
def windows(tmp_path: Path, server: SimServer) -> list[Window]:
    """Twenty seconds of a server, of which nine went by while no process ran."""
    first = Hosted(server, tmp_path, ())
    first.start(BEGIN_NS, second(0))
    for number in range(1, 6):
        first.read(second(number))
    again = Hosted(server, tmp_path, ())
    again.start(BEGIN_NS, second(14))
    for number in range(14, 21):
        again.read(second(number))
    return windows_of(tmp_path, server)


def test_what_a_killed_agent_cuts_in_all_is_the_truth(windows: list[Window], server: SimServer) -> None:
    true = truth(server, second(0), second(20))
    assert len(windows) == 20
    assert holes(windows) == []
    assert {boundary for _, boundary in true} == {"accelerator", "compute", "server"}
    for boundary, sums in told(windows).items():
        assert sums == true[boundary]


def test_a_hole_is_named(windows: list[Window]) -> None:
    assert len(holes(windows[:7] + windows[8:])) == 1


def test_the_truth_of_a_server_is_the_sum_of_its_meters(server: SimServer) -> None:
    before, after = (server.chassis.energies_uj(at_ns - server.begin_ns, 0) for at_ns in (second(0), second(20)))
    idle_j = uj_to_j(after[-1] - before[-1])
    assert truth(server, second(0), second(20))[server.name, "server"].joules > idle_j > 0


class Told:
    """A link that answers what it is told to."""

    url = "http://collector"

    def __init__(self, *verdicts: Verdict) -> None:
        self._verdicts = iter(verdicts)

    def exchange(self, batch: bytes, attempt: int) -> Verdict:
        return next(self._verdicts)

    def close(self) -> None:
        pass


def test_whatever_becomes_of_a_batch_is_counted(tmp_path: Path) -> None:
    rejected = Rejected(index=0, code="too_early")
    verdicts: list[Verdict] = [
        Delivered((rejected,), "e", 1),
        Halve("too_large", "HTTP 413"),
        Wait(1.0, "HTTP 503: the store is down"),
        Wait(1.0, "not reached: refused"),
        Wait(1.0, "something new"),
    ]
    tally = Tally(tmp_path / "tally")
    link = CountedLink(Told(*verdicts), tally)
    for number, _ in zip(count(), verdicts, strict=False):
        link.exchange(b"", number)
    counts = {name: tally[name] for name in ("batches", "too_early", "too_large", "HTTP 503", "not reached", "other")}
    assert counts == {"batches": 5} | dict.fromkeys(list(counts)[1:], 1)


def test_windows_are_counted_when_they_are_taken_and_when_they_are_stored(tmp_path: Path, server: SimServer) -> None:
    agent = Hosted(server, tmp_path, ())
    agent.start(BEGIN_NS, second(0))
    for number in range(1, 4):
        agent.read(second(number))
    tally = Tally(tmp_path / "tally")
    assert BOUNDS.keep_after_ack_s
    with CountedSpool(tmp_path / f"{server.name}.db", tally) as spool:
        for _ in range(2):
            batch = spool.waiting(10, second(4), 10**6)
        spool.stored([one.seq for one in batch], second(4))
    assert (tally["sent"], tally["kept"]) == (6, 3)
    assert agent.is_empty
