"""The way to an InfluxDB: what is sent, and that every failure is told with its mend and never taken for success."""

import base64
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from fixtures.fake_influxdb import Asked, Told, fake_influxdb
from fixtures.processes import until
from fixtures.services import free_port
from joulefleet_collector.store.influx_config import InfluxConfig
from joulefleet_collector.store.influx_wire import Wire
from joulefleet_collector.store.set_aside import LinesRefused
from joulefleet_collector.store.store import StoreUnavailable

V1 = InfluxConfig(database="fleet", username="u", password="hush")
V2 = InfluxConfig(bucket="fleet", org="ours", token="hush")
BOTH = pytest.mark.parametrize("config", [V1, V2], ids=["v1", "v2"])


@contextmanager
def wired(config: InfluxConfig, answer: Callable[[Asked], Told]) -> Iterator[tuple[Wire, list[Asked]]]:
    with fake_influxdb(answer) as (url, asked), closing(Wire(moved(config, url), write_timeout_s=0.3)) as wire:
        yield wire, asked


def moved(config: InfluxConfig, url: str) -> InfluxConfig:
    told = {name: getattr(config, name) for name in config.__struct_fields__}
    return InfluxConfig(**{**told, "url": url})


def test_lines_go_to_write_of_1_x_as_they_are() -> None:
    with wired(V1, lambda _: Told()) as (wire, asked):
        wire.write(b"m,a=b f=1 2\nm f=2 3")
    (one,) = asked
    assert (one.method, one.path, one.query["db"]) == ("POST", "/write", "fleet")
    assert one.body == b"m,a=b f=1 2\nm f=2 3"
    assert one.headers["Authorization"] == "Basic " + base64.b64encode(b"u:hush").decode()


def test_lines_go_to_the_v2_api_as_they_are() -> None:
    with wired(V2, lambda _: Told()) as (wire, asked):
        wire.write(b"m,a=b f=1 2\nm f=2 3")
    (one,) = asked
    assert (one.method, one.path) == ("POST", "/api/v2/write")
    assert (one.query["bucket"], one.query["org"], one.query["precision"]) == ("fleet", "ours", "ns")
    assert (one.body, one.headers["Authorization"]) == (b"m,a=b f=1 2\nm f=2 3", "Token hush")


@BOTH
def test_questions_are_influxql_about_the_database(config: InfluxConfig) -> None:
    with wired(config, lambda _: Told(200, b'{"results":[{},{}]}')) as (wire, asked):
        assert wire.ask("SELECT 1", "SELECT 2") == [[], []]
        assert wire.ask() == []
    (one,) = asked
    assert one.path == "/query" and b"q=SELECT+1%3B+SELECT+2" in one.body
    assert b"db=fleet" in one.body and b"epoch=ns" in one.body and "hush" not in repr(one.query)


@BOTH
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "status 401.*INFLUX_"),
        (403, "status 403.*the right to write (database|bucket) 'fleet'"),
        (404, "status 404.*make it, or start the collector again"),
        (429, "status 429.*fewer requests"),
        (500, "status 500.*server's log"),
        (503, "status 503.*overloaded"),
        (302, "status 302"),
        (200, "status 200"),
    ],
)
def test_a_write_that_was_not_stored_is_told_with_its_mend(config: InfluxConfig, status: int, said: str) -> None:
    told = Told(status, b'{"error":"because"}', (("Location", "/elsewhere"),))
    with wired(config, lambda _: told) as (wire, asked), pytest.raises(StoreUnavailable, match=said) as error:
        wire.write(b"m f=1 1")
    assert len(asked) == 1
    assert "hush" not in str(error.value) and "'fleet'" in str(error.value)


@BOTH
@pytest.mark.parametrize(
    ("status", "later", "requests"), [(429, "30", 1), (503, "999999", 1), (503, "0", 2), (429, "soon", 2)]
)
def test_a_server_that_asks_for_it_is_left_alone(config: InfluxConfig, status: int, later: str, requests: int) -> None:
    with wired(config, lambda _: Told(status, b"{}", (("Retry-After", later),))) as (wire, asked):
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"fewer requests|overloaded"):
                wire.write(b"m f=1 1")
        assert len(asked) == requests


def test_a_server_that_was_left_alone_for_as_long_as_it_asked_is_written_to_again() -> None:
    answers = iter([Told(429, b"{}", (("Retry-After", "1"),)), Told()])
    with wired(V1, lambda _: next(answers)) as (wire, asked):
        until(lambda: stored(wire), "a write to be stored")
        assert len(asked) == 2


def stored(wire: Wire) -> bool:
    """Whether a write is stored now."""
    try:
        wire.write(b"m f=1 1")
    except StoreUnavailable:
        return False
    return True


@BOTH
@pytest.mark.parametrize(
    ("status", "said", "oldest"),
    [
        (400, "unable to parse 'm f=x': invalid number", 0),
        (422, "failure: partial write: points beyond retention policy dropped=3", 3),
        (413, "Request Entity Too Large", 0),
    ],
)
def test_what_lines_are_guilty_of_is_told_apart(config: InfluxConfig, status: int, said: str, oldest: int) -> None:
    told = Told(status, b'{"message":"' + said.encode() + b'"}')
    with wired(config, lambda _: told) as (wire, _), pytest.raises(LinesRefused) as error:
        wire.write(b"m f=1 1")
    assert (error.value.reason, error.value.oldest) == (said, oldest)


@BOTH
@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ("partial write: field type conflict: dropped=1", "for joulefleet alone"),
        ("partial write: max-series-per-database limit exceeded: (1) dropped=1", "raise that limit"),
    ],
)
def test_what_a_person_mends_at_the_server_is_no_fault_of_the_line(config: InfluxConfig, said: str, mend: str) -> None:
    told = Told(400, b'{"error":"' + said.encode() + b'"}')
    with wired(config, lambda _: told) as (wire, _), pytest.raises(StoreUnavailable, match=mend):
        wire.write(b"m f=1 1")


@BOTH
def test_a_server_that_is_not_there_is_told(config: InfluxConfig) -> None:
    with closing(Wire(moved(config, f"http://127.0.0.1:{free_port()}"))) as wire:
        for act in (lambda: wire.write(b"m f=1 1"), lambda: wire.ask("SELECT 1"), wire.present):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                act()


class Lines(bytearray):
    """Lines, of which can be told whether anything still holds them."""


def test_lines_that_were_not_taken_are_not_held() -> None:
    gc.disable()
    try:
        with closing(Wire(moved(V1, f"http://127.0.0.1:{free_port()}"))) as wire:
            lines = Lines(b"m f=1 1")
            with pytest.raises(StoreUnavailable):
                wire.write(lines)  # type: ignore[arg-type]  # bytes cannot be referred to weakly
            held = weakref.ref(lines)
            del lines
            until(lambda: held() is None, "the lines are let go")
    finally:
        gc.enable()


@BOTH
def test_a_half_answer_is_no_answer(config: InfluxConfig) -> None:
    with wired(config, lambda _: Told(200, b'{"results":[{}]}', cut=True)) as (wire, _):
        for act in (lambda: wire.write(b"m f=1 1"), lambda: wire.ask("SELECT 1")):
            with pytest.raises(StoreUnavailable):
                act()


def test_an_answer_that_is_an_error_or_no_influxql_is_told() -> None:
    for body, said in [(b'{"results":[{"error":"syntax"}]}', "syntax"), (b"<html>hello</html>", "no answer")]:
        with (
            wired(V1, lambda _, body=body: Told(200, body)) as (wire, _),
            pytest.raises(StoreUnavailable, match=said),
        ):
            wire.ask("SELECT 1")


@pytest.mark.parametrize(
    ("told", "there"),
    [
        (Told(200, b'{"results":[{}]}'), True),
        (Told(200, b'{"results":[{"error":"database not found: fleet"}]}'), False),
        (Told(404, b'{"error":"database not found: fleet"}'), False),
    ],
)
def test_whether_the_database_is_there(told: Told, there: bool) -> None:
    with wired(V2, lambda _: told) as (wire, _):
        assert wire.present() is there


@BOTH
def test_a_right_that_is_missing_is_named(config: InfluxConfig) -> None:
    with wired(config, lambda _: Told(403, b'{"error":"no"}')) as (wire, _):
        for act, right in ((lambda: wire.ask("SELECT 1"), "read"), (lambda: wire.call("GET", "/x"), "make")):
            with pytest.raises(StoreUnavailable, match=f"the right to {right} (database|bucket) 'fleet'"):
                act()


@BOTH
@pytest.mark.parametrize("asks", [True, False])
def test_whoever_waits_for_an_answer_when_the_way_is_closed_is_told(config: InfluxConfig, asks: bool) -> None:
    asked, over = threading.Event(), threading.Event()

    def answer(_: Asked) -> Told:
        asked.set()
        over.wait()
        return Told()

    with ThreadPoolExecutor(1) as pool, fake_influxdb(answer) as (url, _):
        wire = Wire(moved(config, url))
        try:
            waiting = pool.submit(wire.ask, "SELECT 1") if asks else pool.submit(wire.write, b"m f=1 1")
            assert asked.wait(30)
            wire.close()
            with pytest.raises(StoreUnavailable, match="closed before it answered"):
                waiting.result(30)
        finally:
            over.set()
