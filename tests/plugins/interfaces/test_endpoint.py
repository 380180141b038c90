"""Asking real sockets: kept connections, answers that are cut off, slow, large, or none."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from joulefleet_plugins.interfaces.endpoint import (
    MAX_PAGE_BYTES,
    BadUrl,
    Body,
    Endpoint,
    NoAnswer,
    host_and_port,
    split,
)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
Conversation = Callable[[socket.socket], None]


class Script:
    """A server of which each connection follows the next part of a script."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread: threading.Thread | None = None

    def follow(self, *conversations: Conversation) -> Endpoint:
        self._thread = threading.Thread(target=self._run, args=(conversations,), daemon=True)
        self._thread.start()
        return Endpoint(("http", "127.0.0.1", self.port), 5.0)

    def heard(self, connection: socket.socket) -> None:
        """Read one question."""
        asked = b""
        while not asked.endswith(b"\r\n\r\n") and (some := connection.recv(4096)):
            asked += some
        self.asked.append(asked)

    def close(self) -> None:
        self.over.set()
        self._listener.close()
        if self._thread:
            self._thread.join(5)

    def _run(self, conversations: tuple[Conversation, ...]) -> None:
        for conversation in conversations:
            connection, _ = self._listener.accept()
            with connection:
                conversation(connection)


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.close()


def say(script: Script, *answers: bytes) -> Conversation:
    """Answer one question with each, then close the connection."""

    def talk(connection: socket.socket) -> None:
        for answer in answers:
            script.heard(connection)
            connection.sendall(answer)

    return talk


def whole(body: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def refused(endpoint: Endpoint) -> NoAnswer:
    with pytest.raises(NoAnswer) as error:
        endpoint.get("/metrics")
    return error.value


def test_the_connection_is_kept(script: Script) -> None:
    endpoint = script.follow(say(script, whole(b"one"), whole(b"two"), whole(b"")))
    assert [endpoint.get("/a?b=c").content, endpoint.get("/").content, endpoint.get("/").content] == [
        b"one",
        b"two",
        b"",
    ]
    assert script.asked[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")


def test_content_and_type(script: Script) -> None:
    endpoint = script.follow(say(script, whole(b"m 1\n")))
    assert endpoint.get("/metrics") == Body(b"m 1\n", "text/plain")


def test_a_kept_connection_that_was_closed_meanwhile_is_opened_again(script: Script) -> None:
    endpoint = script.follow(say(script, whole(b"one")), say(script, whole(b"two")))
    assert (endpoint.get("/").content, endpoint.get("/").content) == (b"one", b"two")


def test_a_fresh_connection_that_is_closed_is_no_answer(script: Script) -> None:
    error = refused(script.follow(say(script, b"")))
    assert error.code == "scrape_failed"
    assert len(script.asked) == 1


def test_nobody_listens(script: Script) -> None:
    script.close()
    error = refused(Endpoint(("http", "127.0.0.1", script.port), 5.0))
    assert error.code == "scrape_failed"
    assert f"127.0.0.1:{script.port}" in str(error)
    assert "refused" in str(error)


def test_chunks_and_answers_that_end_with_the_connection(script: Script) -> None:
    chunks = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n4\r\ntwo\n\r\n0\r\n\r\n"
    endpoint = script.follow(say(script, chunks, whole(b"kept")), say(script, HEAD + b"\r\nuntil the end"))
    assert endpoint.get("/").content == b"onetwo\n"
    assert endpoint.get("/").content == b"kept"
    assert endpoint.get("/").content == b"until the end"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 100\r\n\r\nonly this",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n20\r\nonly this",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
    ],
)
def test_an_answer_that_ends_in_the_middle(script: Script, answer: bytes) -> None:
    endpoint = script.follow(say(script, answer), say(script, whole(b"well")))
    assert refused(endpoint).code == "truncated"
    assert endpoint.get("/").content == b"well"


@pytest.mark.parametrize(
    ("head", "code", "words"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "http_status", "503 Service Unavailable"),
        (b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /metrics/\r\n\r\n", "http_status", "to /metrics/: use that"),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", "http_status", "gzip"),
        (HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_PAGE_BYTES + 1), "too_large", str(MAX_PAGE_BYTES)),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "scrape_failed", "SSH"),
    ],
)
def test_answers_that_are_no_page(script: Script, head: bytes, code: str, words: str) -> None:
    error = refused(script.follow(say(script, head)))
    assert error.code == code
    assert words in str(error)


def test_a_page_without_end_is_given_up(script: Script) -> None:
    def pour(connection: socket.socket) -> None:
        script.heard(connection)
        connection.sendall(HEAD + b"\r\n")
        try:
            while True:
                connection.sendall(b"x" * 65536)
        except OSError:
            script.over.set()

    assert refused(script.follow(pour)).code == "too_large"
    assert script.over.wait(5), "the connection was not closed"


def test_a_server_that_says_nothing(script: Script) -> None:
    def stall(_: socket.socket) -> None:
        script.over.wait(5)

    script.follow(stall)
    error = refused(Endpoint(("http", "127.0.0.1", script.port), 0.05))
    assert error.code == "timeout"
    assert "0.05 s" in str(error)


def test_a_server_that_drips(script: Script) -> None:
    def drip(connection: socket.socket) -> None:
        script.heard(connection)
        connection.sendall(HEAD + b"Content-Length: 100\r\n\r\nsome")
        script.over.wait(5)

    script.follow(drip)
    instants_s = iter([0.0, 0.0, 6.0])
    error = refused(Endpoint(("http", "127.0.0.1", script.port), 5.0, now_s=lambda: next(instants_s)))
    assert error.code == "timeout"


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("http://127.0.0.1:8000/metrics", ("http", "127.0.0.1", 8000), "/metrics"),
        ("HTTP://Server", ("http", "server", 80), ""),
        ("https://s.example/prometheus/metrics?model=a#x", ("https", "s.example", 443), "/prometheus/metrics?model=a"),
        ("http://[::1]:8000/", ("http", "::1", 8000), "/"),
    ],
)
def test_urls(url: str, origin: tuple[str, str, int], path: str) -> None:
    assert split(url) == (origin, path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://a/metrics",
        "http://",
        "http:///metrics",
        "http://a:port/",
        "http://a:70000/",
        "http://[::1/",
        "http://user:secret@a/",
        "http://a/with space",
        "http://a/\r\nX: y",
        f"http://{'a' * 70}/",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(BadUrl):
        split(url)


def test_a_password_in_a_url_is_not_told() -> None:
    with pytest.raises(BadUrl) as raised:
        split("http://user:hunter2@a/")
    assert "hunter2" not in str(raised.value)


def test_host_and_port_as_in_a_url() -> None:
    assert host_and_port(("http", "a", 80)) == "a:80"
    assert host_and_port(("http", "::1", 8000)) == "[::1]:8000"
