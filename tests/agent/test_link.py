"""Ways to a collector: the stream of a real one, POST where there is none, and what each kind of end leads to."""

import http.server
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fixtures.collectors import Collector, in_this_process
from joulefleet.delivery import plain
from joulefleet.units import s_to_ns
from joulefleet.window import Window
from joulefleet_agent.link import BestLink, NoStream, PostLink, StreamLink, best_link
from joulefleet_agent.offset import NOT_COMPARED, Offsets
from joulefleet_agent.reply import Delivered, Halve, Wait
from joulefleet_agent.spool import Spool
from joulefleet_agent.uplink import Uplink

NOW = 1_790_000_000_000_000_000


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    with in_this_process(tmp_path / "store", lambda: NOW) as opened:
        yield opened


@contextmanager
def answering(status: int, headers: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Something that is no collector and answers every request alike."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer()

        def _answer(self) -> None:
            asked.append(self.command)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()


def stream_to(url: str) -> StreamLink:
    return StreamLink(url, random.Random(1), "secret", timeout_s=5)


def test_windows_go_by_stream_and_are_stored(collector: Collector, tmp_path: Path, make_window: Any) -> None:
    with Spool(tmp_path / "s.db") as spool:
        spool.commit(b"", [make_window() for _ in range(5)], NOW)
        uplink = Uplink([best_link(collector.url, random.Random(1))], spool, lambda: NOW, live=False)
        assert [uplink.send_once(), uplink.send_once()] == [0.0, None]
        uplink.close()
        assert spool.depth() == (0, 0)
    assert len(collector.windows()) == 5


def test_one_stream_serves_many_batches_and_opens_again_after_a_close(collector: Collector) -> None:
    link = stream_to(collector.url)
    sent = [
        Window(server="s", timeline=1, start_ns=NOW - number * s_to_ns(10), step_ns=s_to_ns(10)) for number in range(4)
    ]
    for batch_id in range(3):
        assert isinstance(link.exchange(plain([sent[batch_id].encode()], batch_id), 0), Delivered)
    link.close()
    assert isinstance(link.exchange(plain([sent[3].encode()], 3), 0), Delivered)
    link.close()
    assert collector.windows() == sent[::-1]


def test_clocks_are_compared_when_a_stream_opens_and_at_no_other_message(collector: Collector) -> None:
    offsets = Offsets(lambda: NOW + 5_000_000_000)
    link = StreamLink(collector.url, random.Random(1), timeout_s=5, offsets=offsets)
    link.exchange(plain([]), 0)
    assert offsets.take().ahead_ns == 5_000_000_000
    link.exchange(plain([]), 0)
    assert offsets.take() == NOT_COMPARED
    link.close()


def test_a_batch_that_the_collector_cannot_read_is_halved(collector: Collector) -> None:
    link = stream_to(collector.url)
    assert isinstance(link.exchange(b"nonsense", 0), Halve)
    link.close()


def test_a_collector_that_ends_says_goodbye_and_its_agents_return_spread(tmp_path: Path) -> None:
    with in_this_process(tmp_path / "store", lambda: NOW) as collector:
        link = stream_to(collector.url)
        assert isinstance(link.exchange(plain([]), 0), Delivered)
    verdict = link.exchange(plain([]), 0)
    assert isinstance(verdict, Wait)
    assert verdict.quiet
    assert 0 <= verdict.seconds <= 1
    again = link.exchange(plain([]), 0)
    assert isinstance(again, Wait)
    assert "not reached" in again.reason
    link.close()


@pytest.mark.parametrize("status", [200, 400, 404, 405, 426])
def test_what_knows_no_stream_is_asked_by_post(status: int) -> None:
    with answering(status, {}) as (url, asked):
        with pytest.raises(NoStream):
            stream_to(url).exchange(plain([]), 0)
        link = BestLink(stream_to(url), PostLink(url, random.Random(1)))
        link.exchange(plain([]), 0)
        link.exchange(plain([]), 0)
        link.close()
    assert asked == ["GET", "GET", "POST", "POST"]


@pytest.mark.parametrize(("status", "loud"), [(401, True), (403, True), (429, False), (503, False)])
def test_a_handshake_that_is_refused_keeps_everything(status: int, loud: bool) -> None:
    with answering(status, {"Retry-After": "7"}) as (url, _):
        verdict = stream_to(url).exchange(plain([]), 0)
    assert isinstance(verdict, Wait)
    assert verdict.loud is loud
    assert loud or verdict.seconds >= 7
    assert "secret" not in verdict.reason


def test_nobody_there() -> None:
    verdict = stream_to("http://127.0.0.1:1").exchange(plain([]), 0)
    assert isinstance(verdict, Wait)
    assert "not reached" in verdict.reason


@pytest.mark.parametrize("end", [b"", b"HTTP/1.1 101 Switching Proto"], ids=["at_once", "in_the_head"])
def test_a_stream_that_is_cut_while_it_opens_is_tried_again_and_not_left_for_posts(end: bytes) -> None:
    with cutting(end) as url:
        verdict = stream_to(url).exchange(plain([]), 0)
    assert isinstance(verdict, Wait)
    assert "cut while it was opened" in verdict.reason


def test_an_answer_that_is_cut_in_its_body_is_a_cut_connection() -> None:
    with cutting(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{") as url:
        verdict = PostLink(url, random.Random(1)).exchange(plain([]), 0)
    assert isinstance(verdict, Wait)
    assert not verdict.loud
    assert "not reached" in verdict.reason


@contextmanager
def cutting(end: bytes) -> Iterator[str]:
    """What takes one request after the other, and answers these bytes alone."""
    ended = threading.Event()

    def answer() -> None:
        while not ended.is_set():
            connection, _ = listener.accept()
            with connection:
                if connection.recv(65_536):
                    connection.sendall(end)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            ended.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()
