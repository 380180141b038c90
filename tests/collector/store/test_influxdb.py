"""The store on a real InfluxDB 1.x: what may befall it, and what it refuses."""

import json
import logging
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

from collector.store.conftest import NOW_NS, on_influxdb, on_influxdb_1
from fixtures.services import Server, free_port, influxd_1, of_debian, running_influxd_1
from joulefleet.grid import HOUR_NS
from joulefleet.units import NS_PER_S
from joulefleet.window import Window
from joulefleet_collector.rows import Row
from joulefleet_collector.store import influxdb
from joulefleet_collector.store.influx_config import InfluxConfig
from joulefleet_collector.store.influx_wire import Wire
from joulefleet_collector.store.influxdb import WRITE_ONLY, InfluxStore
from joulefleet_collector.store.store import DAY_NS, Accounted, Question, StoreUnavailable

Put = Callable[..., int]
AWindow = Callable[..., Window]
EVER = {"since_ns": 0, "until_ns": 40_000 * DAY_NS}


@pytest.fixture
def influx(influxdb_1: Server, tmp_path: Path) -> Iterator[InfluxStore]:
    with closing(on_influxdb_1(influxdb_1, tmp_path)) as store:
        yield store


def joules(store: InfluxStore) -> float:
    return sum(one.fields["active_j"] for one in store.ask(Question(kind="usage", fields=("active_j",), **EVER)))


def direct(server: Server, path: str, body: bytes = b"", **options: str) -> None:
    """A request past the code that is tested."""
    asked = Request(f"{server.url}{path}?{urlencode(options)}", body, method="POST")
    with urlopen(asked, timeout=30) as answer:
        answer.read()  # InfluxDB begins to answer before the statement is done


def test_a_store_opened_again_has_everything_and_its_epoch(
    influxdb_1: Server, tmp_path: Path, put: Put, a_window: AWindow
) -> None:
    config = InfluxConfig(url=influxdb_1.url, database=tmp_path.name)
    with closing(on_influxdb(config, tmp_path)) as store:
        put(store, a_window())
    with closing(InfluxStore(Wire(config), tmp_path, lambda: "other", lambda: 5, lambda: NOW_NS + DAY_NS)) as store:
        assert (store.epoch, joules(store)) == ("epoch-1", 600.0)


def test_two_collectors_write_one_store(influxdb_1: Server, tmp_path: Path, put: Put, a_window: AWindow) -> None:
    config = InfluxConfig(url=influxdb_1.url, database=tmp_path.name)
    with closing(on_influxdb(config, tmp_path)) as one, closing(on_influxdb(config, tmp_path)) as other:
        put(one, a_window("a"), a_window("b"))
        put(other, a_window("b"), a_window("c"))
        assert joules(one) == joules(other) == 1800.0
        assert one.epoch == other.epoch


def test_every_tag_comes_back_as_it_was(influx: InfluxStore, a_window: AWindow, start_ns: int) -> None:
    rng = random.Random(4)
    texts = ["".join(rng.choices("\\ ,='\"%\n\r\tx\x7fé", k=rng.randint(1, 6))) for _ in range(60)]
    texts = sorted(set(texts))
    rows = [Row("usage", start_ns, {"server": "s", "model": text}, {"active_j": 1.0}) for text in texts]
    window = a_window()
    influx.write([Accounted(window, window.encode(), rows)], 1)
    asked = Question(kind="usage", by=("model",), fields=("active_j",), **EVER)
    assert {one.tags["model"] for one in influx.ask(asked)} == set(texts)
    for text in texts:
        found = influx.ask(Question(kind="usage", where={"model": (text,)}, fields=("active_j",), **EVER))
        assert [one.fields for one in found] == [{"active_j": 1.0}], repr(text)
    assert {row.tags["model"] for row in influx.latest("usage")} == set(texts)
    assert influx.set_aside.lines == 0


def test_labels_may_bear_the_names_of_fields_and_of_the_time(influx: InfluxStore, put: Put, a_window: AWindow) -> None:
    labels = {"active_j": "x", "time": "y", "_field": "z", "label_a": "w"}
    put(influx, a_window(labels=labels))
    asked = Question(kind="usage", by=tuple(labels), where={"time": ("y",)}, fields=("active_j",), **EVER)
    assert [(one.tags, one.fields) for one in influx.ask(asked)] == [(labels, {"active_j": 600.0})]
    assert labels.keys() <= influx.tags("usage")


def test_a_poisoned_line_is_set_aside_and_the_rest_is_stored(
    influx: InfluxStore, put: Put, a_window: AWindow, start_ns: int, caplog: pytest.LogCaptureFixture
) -> None:
    # The key of a series may have 65,535 bytes at most.
    poison = Row("usage", start_ns, {"server": "s", "model": "x" * 70_000}, {"active_j": 1.0})
    window = a_window("poisoned")
    with caplog.at_level(logging.ERROR):
        influx.write([Accounted(window, window.encode(), [poison])], 1)
        put(influx, *(a_window(f"s{number}") for number in range(20)))
        good = [Row("usage", start_ns, {"server": f"t{number}"}, {"active_j": 1.0}) for number in range(50)]
        influx.write([Accounted(window, window.encode(), [*good[:33], poison, *good[33:], poison])], 1)
    assert joules(influx) == 20 * 600.0 + 50.0
    assert influx.set_aside.lines == influx.lines_set_aside == 3
    assert influx.set_aside.path.read_bytes().count(b"x" * 70_000) >= 3
    assert caplog.messages[0].startswith("http") and "refused 1 lines" in caplog.messages[0]


def test_rows_older_than_the_retention_are_set_aside_without_halving(
    influxdb_1: Server, tmp_path: Path, put: Put, a_window: AWindow, start_ns: int
) -> None:
    config = InfluxConfig(url=influxdb_1.url, database=tmp_path.name, retention_days=20 * 365)
    with closing(on_influxdb(config, tmp_path)) as store:
        old = [a_window(f"s{number}", minute=-60 * 24 * 365 * 40) for number in range(5)]
        put(store, a_window("new", joules=7.0), *old)
        assert joules(store) == 7.0
        assert store.set_aside.lines == 5 * 4 + 1  # the mark of their hour too
        assert b"beyond retention" in store.set_aside.path.read_bytes()


def test_data_of_another_program_is_told_and_nothing_is_set_aside(
    influxdb_1: Server, influx: InfluxStore, tmp_path: Path, put: Put, a_window: AWindow
) -> None:
    direct(influxdb_1, "/write", b'usage active_j="text" %d' % a_window().start_ns, db=tmp_path.name)
    with pytest.raises(StoreUnavailable, match="for joulefleet alone"):
        put(influx, a_window())
    assert influx.set_aside.lines == 0


def test_a_store_that_was_emptied_is_told_within_the_hour(
    influxdb_1: Server, tmp_path: Path, put: Put, a_window: AWindow
) -> None:
    config = InfluxConfig(url=influxdb_1.url, database=tmp_path.name)
    now = [NOW_NS]
    with closing(InfluxStore(Wire(config), tmp_path, lambda: "one", lambda: 1, lambda: now[0])) as store:
        put(store, a_window())
        direct(influxdb_1, "/query", q=f'DROP DATABASE "{tmp_path.name}"')
        with pytest.raises(StoreUnavailable, match="start the collector again"):
            put(store, a_window())
        direct(influxdb_1, "/query", q=f'CREATE DATABASE "{tmp_path.name}"')
        now[0] += HOUR_NS
        with pytest.raises(StoreUnavailable, match="emptied or replaced"):
            put(store, a_window())
    with closing(InfluxStore(Wire(config), tmp_path, lambda: "two", lambda: 1, lambda: now[0])) as store:
        assert store.epoch == "two"
        put(store, a_window())
        assert joules(store) == 600.0


def test_a_kill_and_a_restart_lose_nothing_that_was_acknowledged(tmp_path: Path, put: Put, a_window: AWindow) -> None:
    program, port = of_debian(influxd_1(), "InfluxDB 1.x (influxd)"), free_port()
    config = InfluxConfig(url=f"http://127.0.0.1:{port}", database="fleet")
    with running_influxd_1(program, tmp_path, port) as server:
        store = on_influxdb(config, tmp_path)
        for minute in range(30):
            put(store, a_window(minute=minute, joules=1.0))
        server.end()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            put(store, a_window(minute=30, joules=1.0))
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            store.check()
    with closing(store), running_influxd_1(program, tmp_path, port):
        assert joules(store) == 30.0
        put(store, a_window(minute=30, joules=1.0))
        assert joules(store) == 31.0


def test_a_server_that_hangs_is_told_and_the_window_counts_once_however_it_ended(
    tmp_path: Path, put: Put, a_window: AWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(influxdb, "PROBE_TIMEOUT_S", 0.3)
    program = of_debian(influxd_1(), "InfluxDB 1.x (influxd)")
    with running_influxd_1(program, tmp_path) as server:
        config = InfluxConfig(url=server.url, database="fleet")
        with closing(on_influxdb(config, tmp_path, write_timeout_s=0.3)) as store:
            put(store, a_window(minute=0))
            server.pause()
            with pytest.raises(StoreUnavailable, match="did not answer in time"):
                put(store, a_window(minute=1))
            with pytest.raises(StoreUnavailable, match="did not answer in time"):
                store.check()
            server.resume()
            put(store, a_window(minute=1))
            assert joules(store) == 1200.0


def test_windows_are_not_kept_and_that_is_told(influx: InfluxStore) -> None:
    for act in (lambda: influx.windows(None, 0, 1), lambda: influx.recount(lambda _: [], lambda *_: None)):
        with pytest.raises(StoreUnavailable, match=r"only rows are kept here.*use the embedded store"):
            act()


def test_a_store_that_answers_no_influxql_is_only_written_to(
    influxdb_1: Server, influx: InfluxStore, tmp_path: Path, put: Put, a_window: AWindow
) -> None:
    config = InfluxConfig(url=influxdb_1.url, database=tmp_path.name, read=False)
    with closing(on_influxdb(config, tmp_path)) as store:
        store.check()
        put(store, a_window())
        assert store.epoch == WRITE_ONLY
        for act in (lambda: joules(store), lambda: store.latest("agent"), lambda: store.tags("usage")):
            with pytest.raises(StoreUnavailable, match="only written to"):
                act()
    assert joules(influx) == 600.0


def test_one_commit_is_one_request(influxdb_1: Server, influx: InfluxStore, put: Put, a_window: AWindow) -> None:
    put(influx, a_window())
    before = requests(influxdb_1)
    put(influx, *(a_window(f"s{number}", minute) for number in range(10) for minute in range(10)))
    assert requests(influxdb_1) - before == 1


def requests(server: Server) -> int:
    """Writes that the server has answered so far, by its own count."""
    with urlopen(f"{server.url}/debug/vars", timeout=30) as answer:
        counts = json.load(answer)
    return next(int(one["values"]["writeReq"]) for key, one in counts.items() if key.startswith("httpd"))


def test_timelines_that_do_not_overlap_cost_no_look_at_their_windows(
    influx: InfluxStore, put: Put, a_window: AWindow, start_ns: int
) -> None:
    put(influx, *(a_window("a", minute, timeline=7) for minute in range(3)))
    put(influx, *(a_window("a", minute, timeline=9, step_ns=600 * NS_PER_S) for minute in (200, 210)))
    assert influx._servers_of_several_timelines(0, 2**62) == []
    put(influx, a_window("a", 2, timeline=9))
    assert influx._servers_of_several_timelines(0, 2**62) == ["a"]
    (overlap,) = influx.timelines(0, start_ns + DAY_NS)
    assert (overlap.timelines, overlap.from_ns) == ((7, 9), start_ns + 120 * NS_PER_S)


def test_tokens_differ_from_write_to_write(influxdb_1: Server, tmp_path: Path, put: Put, a_window: AWindow) -> None:
    drawn: list[int] = []

    def draw() -> int:
        drawn.append(secrets.randbits(40))
        return drawn[-1]

    config = InfluxConfig(url=influxdb_1.url, database=tmp_path.name)
    with closing(InfluxStore(Wire(config), tmp_path, lambda: "e", draw, lambda: NOW_NS)) as store:
        put(store, a_window())
        put(store, a_window())
    assert len(set(drawn)) == 2
