"""What sources say while they are listened to."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from fixtures import faulty
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import MeterReading
from joulefleet.source import SourceGone
from joulefleet_agent.config import SourceConfig
from joulefleet_agent.listen import Heard, listen
from joulefleet_agent.sampler import Absent, Configured, Gone, Opened, Said
from joulefleet_agent.sources import configured

METER = Meter(id="m", kind="dram", grade="counter", sensor_class="onboard")
MS = 1_000_000


class Brief:
    """A source that says so many things and ends."""

    declares = (METER,)
    period_ns = deadline_ns = 10 * MS

    def __init__(self, reads: int) -> None:
        self.left = reads

    def read(self) -> list[MeterReading]:
        if not self.left:
            raise SourceGone("end")
        self.left -= 1
        return [MeterReading(meter="m", counter_uj=self.left)]


def brief(name: str, reads: int) -> Configured:
    return Configured(name, lambda _table: Brief(reads), {})  # type: ignore[arg-type] # it declares a meter only


def test_everything_is_heard_in_order_until_all_have_ended() -> None:
    heard = list(listen([brief("a", 3), brief("b", 1)], threading.Event()))
    of_a = [one.event for one in heard if one.event.source == "a"]
    assert isinstance(of_a[0], Opened) and of_a[0].declares == (METER,)
    assert [one.readings[0].counter_uj for one in of_a[1:4] if isinstance(one, Said)] == [2, 1, 0]  # type: ignore[union-attr] # readings of a meter
    assert isinstance(of_a[4], Gone) and len(of_a) == 5
    assert [one.boot_ns for one in heard] == sorted(one.boot_ns for one in heard)
    assert all(one.wall_ns > 10**18 for one in heard)


def test_it_ends_when_it_is_told_to_and_after_its_seconds() -> None:
    stop = threading.Event()
    for one in listen([brief("a", 10**9)], stop):
        assert isinstance(one, Heard)
        stop.set()
    assert len(list(listen([brief("a", 10**9)], threading.Event(), seconds=0.05))) >= 1
    assert list(listen([], threading.Event())) == []


def test_a_source_that_is_not_here_is_heard_too(tmp_path: Path) -> None:
    (one,) = configured([SourceConfig("rapl", {"root": str(tmp_path)})], "test")
    heard = next(iter(listen([one], threading.Event())))
    assert isinstance(heard.event, Absent) and heard.event.code == "absent"


def test_a_table_that_cannot_be_used_is_told() -> None:
    sources = configured([SourceConfig("simulated", {"bords": 1})], "test")
    with pytest.raises(ConfigError, match="bords"):
        list(listen(sources, threading.Event()))
    assert list(listen(sources, threading.Event(), unasked=True)) == [], "nobody asked for it"


def test_a_read_that_hangs_is_heard_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty.install(tmp_path / "faulty")
    monkeypatch.syspath_prepend(tmp_path / "faulty")
    fifo = tmp_path / "faulty" / "fifo"
    (one,) = configured([SourceConfig("hangs", {"fifo": str(fifo)})], "test")
    heard: list[Any] = []
    for told in listen([one], threading.Event(), seconds=20):
        heard.append(told.event)
        if isinstance(told.event, Said):
            break
    assert heard[-1].readings[0].code == "hung"
    os.close(os.open(fifo, os.O_WRONLY))  # lets the thread that hangs end
