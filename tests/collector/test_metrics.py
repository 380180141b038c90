"""What the collector counts, and the page that tells it."""

import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from joulefleet.delivery import Rejected
from joulefleet_collector.fleet import Summary
from joulefleet_collector.metrics import COMMITS_S, PREFIX, Counts, Meters, counted, of_fleet, page, process, shared
from joulefleet_collector.store.store import Accounted, StoreUnavailable

NOW_NS = 1_790_000_000 * 10**9
DOCUMENT = (Path(__file__).parents[2] / "docs/operating.md").read_text(encoding="utf-8")


class FakeStore:
    """A store that says how many windows were new, after as long as it takes."""

    tells_known = True
    lines_set_aside: int | None = None

    def __init__(self, new: int = 0, took_s: float = 0.0) -> None:
        self.new = new
        self.took_s = took_s
        self.now_s = 100.0
        self.down = False

    def write(self, accounted: Sequence[Accounted], received_ns: int) -> int:
        self.now_s += self.took_s
        if self.down:
            raise StoreUnavailable("/data", "no space is left", "free some")
        return self.new


class FakeInflux(FakeStore):
    """A store that refuses lines and does not know what is new."""

    tells_known = False
    lines_set_aside = 4


def samples(*metrics: object) -> dict[str, float]:
    """Every sample of the page by its name and labels, without our prefix."""
    text, _ = page(metrics, "")  # type: ignore[arg-type]  # the library's parser reads what it wrote
    return {
        sample.name.removeprefix(PREFIX) + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def windows(number: int) -> list[Accounted]:
    return [Accounted(None, b"", [])] * number  # type: ignore[arg-type]  # only their number is looked at


def test_windows_are_counted_once_a_commit_and_those_that_were_there_apart() -> None:
    store = FakeStore(new=3)
    meters = Meters(lambda: store.now_s)
    meters.commit(store, windows(5), 0)  # type: ignore[arg-type]  # only write is reached
    meters.refuse(Rejected(index=0, code=code) for code in ("too_old", "too_old", "not_known_here"))
    found = samples(*counted(meters, store))  # type: ignore[arg-type]  # as above
    assert (found["windows_accepted_total"], found["windows_known_total"]) == (3, 2)
    assert (found["windows_refused_total too_old"], found["windows_refused_total other"]) == (2, 1)
    assert found["windows_refused_total malformed"] == 0


def test_what_a_store_cannot_tell_is_left_out() -> None:
    of_embedded = samples(*counted(Meters(), FakeStore()))  # type: ignore[arg-type]  # no method is reached
    meters = Meters()
    meters.commit(FakeInflux(), windows(1), 0)  # type: ignore[arg-type]  # only write is reached
    of_influx = samples(*counted(meters, FakeInflux()))  # type: ignore[arg-type]  # no method is reached
    assert of_embedded.keys() - of_influx.keys() == {"windows_known_total"}
    assert of_influx.keys() - of_embedded.keys() == {"set_aside_lines_total"}
    assert of_influx["set_aside_lines_total"] == 4


def test_while_the_store_writes_it_is_told_for_how_long() -> None:
    store = FakeStore()
    meters = Meters(lambda: store.now_s)
    told: list[float] = []

    class Slow(FakeStore):
        def write(self, accounted: Sequence[Accounted], received_ns: int) -> int:
            store.now_s += 7.0
            told.append(meters.writes_s)
            raise StoreUnavailable("/data", "no space is left", "free some")

    with pytest.raises(StoreUnavailable):
        meters.commit(Slow(), windows(1), 0)  # type: ignore[arg-type]  # only write is reached
    assert (told, meters.writes_s) == ([7.0], 0.0)


def test_a_commit_that_fails_is_an_error_and_no_duration() -> None:
    store = FakeStore()
    store.down, meters = True, Meters(lambda: store.now_s)
    with pytest.raises(StoreUnavailable):
        meters.commit(store, windows(5), 0)  # type: ignore[arg-type]  # only write is reached
    found = samples(*counted(meters, store))  # type: ignore[arg-type]  # as above
    assert (found["store_errors_total"], found["windows_accepted_total"]) == (1, 0)
    assert found["commit_duration_seconds_count"] == 0


@given(st.lists(st.sampled_from([*COMMITS_S, 0.0, 0.007, 29.0, 1_000.0]) | st.floats(0, 100)))
def test_the_histogram_tells_how_many_commits_took_no_longer(took_s: list[float]) -> None:
    store = FakeStore()
    meters = Meters(lambda: store.now_s)
    for each in took_s:
        store.now_s, store.took_s = 0.0, each
        meters.commit(store, [], 0)  # type: ignore[arg-type]  # only write is reached
    found = samples(*counted(meters, store))  # type: ignore[arg-type]  # as above
    for edge in COMMITS_S:
        assert found[f"commit_duration_seconds_bucket {edge}"] == sum(each <= edge for each in took_s)
    assert found["commit_duration_seconds_count"] == found["commit_duration_seconds_bucket +Inf"] == len(took_s)
    assert found["commit_duration_seconds_sum"] == pytest.approx(sum(took_s))


def test_batches_are_counted_by_status_and_bytes_only_of_those_taken() -> None:
    meters = Meters()
    for status, size in ((200, 10), (200, 5), (413, 10**9), (418, 1)):
        meters.answered(status, size)
    found = samples(*counted(meters, FakeStore()))  # type: ignore[arg-type]  # no method is reached
    assert [found[f"batches_total {status}"] for status in (200, 413, "other", 503)] == [2, 1, 1, 0]
    assert found["batch_bytes_total"] == 15


def count_something(counts: Counts, place: int) -> None:
    """What each process of one collector does, and its number with it."""
    store = FakeStore(new=place, took_s=0.2)
    meters = Meters(lambda: store.now_s, counts, place)
    meters.commit(store, windows(place + 1), 0)  # type: ignore[arg-type]  # only write is reached
    meters.refuse([Rejected(index=0, code="too_early")])
    meters.answered(503, 1)
    meters.stream(1)
    meters.waiting(place, 1_000)


def test_whichever_process_is_asked_tells_the_sums_of_all() -> None:
    counts = shared(3)
    alone = Meters(counts=counts)
    before = samples(*counted(alone, FakeStore()))  # type: ignore[arg-type]  # no method is reached
    assert set(before.values()) == {0}
    for place in (1, 2):
        one = multiprocessing.get_context("fork").Process(target=count_something, args=(counts, place))
        one.start()
        one.join()
    found = samples(*counted(alone, FakeStore()))  # type: ignore[arg-type]  # no method is reached
    assert (found["windows_accepted_total"], found["windows_known_total"]) == (3, 2)
    assert (found["windows_refused_total too_early"], found["batches_total 503"], found["streams_open"]) == (2, 2, 2)
    assert (found["batches_waiting"], found["batches_waiting_bytes"]) == (3, 2_000)
    assert [found[f"commit_duration_seconds_bucket {edge}"] for edge in ("0.1", "0.25", "+Inf")] == [0, 2, 2]
    assert found["commit_duration_seconds_sum"] == pytest.approx(0.4)
    assert len(set(alone.processes)) == 3 and alone.processes[0] == os.getpid()


def test_collectors_that_share_nothing_do_not_count_together() -> None:
    one, other = Meters(), Meters()
    one.answered(200, 5)
    assert sum(one.sums()) - sum(other.sums()) == 6


def test_processes_are_told_together_and_what_one_of_them_hides_is_left_out() -> None:
    own = os.getpid()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        alone, both = samples(*process([own])), samples(*process([own, other.pid]))
        other.communicate(b"\n")
    assert both["process_resident_memory_bytes"] > alone["process_resident_memory_bytes"] > 0
    assert both["process_cpu_seconds_total"] >= alone["process_cpu_seconds_total"] > 0
    assert both["process_start_time_seconds"] == alone["process_start_time_seconds"]
    assert both["process_open_fds"] >= alone["process_open_fds"] + 3
    nobody = 2**22 + 1  # above the highest number that Linux gives
    assert samples(*process([own, nobody])) == {}


def test_what_no_agent_told_is_left_out() -> None:
    assert samples(*of_fleet(Summary({"ok": 0}), NOW_NS)) == {"agents ok": 0}
    told = samples(*of_fleet(Summary({"ok": 2, "silent": 1}, 7.0, NOW_NS - 5 * 10**9), NOW_NS))
    assert told == {"agents ok": 2, "agents silent": 1, "agents_spool_windows": 7, "newest_window_age_seconds": 5}


def test_the_page_is_in_the_form_that_is_asked_for() -> None:
    metrics = [*counted(Meters(), FakeStore()), *process([os.getpid()])]  # type: ignore[arg-type]  # no method is reached
    text, content_type = page(metrics, "")
    assert content_type.startswith("text/plain") and b"_created" not in text
    assert b"process_resident_memory_bytes" in text
    text, content_type = page(metrics, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text") and text.endswith(b"# EOF\n")


def test_every_metric_is_in_the_document_and_none_that_is_not_there() -> None:
    told = [*counted(Meters(), FakeStore()), *counted(Meters(), FakeInflux())]  # type: ignore[arg-type]  # no method is reached
    told += of_fleet(Summary({}, 0.0, 0), NOW_NS)
    names = {one.name + ("_total" if one.type == "counter" else "") for one in told}
    assert set(re.findall(rf"^\| `({PREFIX}\w+)` \|", DOCUMENT, re.MULTILINE)) == names
    assert set(re.findall(rf"{PREFIX}\w+", DOCUMENT)) <= names | {f"{PREFIX}commit_duration_seconds_bucket"}
