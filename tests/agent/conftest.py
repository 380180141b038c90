"""A fake collector on a real socket, time that a test sets, and windows to send."""

import itertools
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest

from joulefleet.delivery import Answer, unpack
from joulefleet.describe import Meter
from joulefleet.window import MeterWindow, Window, WrongSchema, decode

S = 1_000_000_000
WALL = Meter(id="wall", kind="server", grade="counter", sensor_class="platform")


class FakeTime:
    """A wall clock and a boot clock that stand still until a test moves them."""

    def __init__(self) -> None:
        self.wall_ns = 1_790_000_040 * S
        self.boot_ns = 5_000 * S

    def wall(self) -> int:
        return self.wall_ns

    def boot(self) -> int:
        return self.boot_ns

    def pass_s(self, seconds: float) -> None:
        """Both clocks go on."""
        self.wall_ns += round(seconds * S)
        self.boot_ns += round(seconds * S)

    def set_wall(self, by_s: float) -> None:
        """Someone sets the wall clock."""
        self.wall_ns += round(by_s * S)


class Reply(msgspec.Struct):
    """What the fake collector does with one request."""

    status: int = 200
    body: bytes | None = None
    """By default the answer of a collector that took everything, but for `answer`."""
    answer: Answer | None = None
    headers: dict[str, str] = {}
    cut_after: int = -1
    """Close the connection after so many bytes of the body."""
    hang: bool = False
    close: bool = False
    """Close the connection after the answer without having said so."""


class FakeCollector:
    """Gives the replies it was told, then takes everything; keeps what it took and what it was asked."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.default: Callable[[list[Window | None]], Reply] = lambda _windows: Reply()
        self.asked: list[dict[str, str]] = []
        self.batches: list[list[Window | None]] = []
        self.backfills: list[bool] = []
        self.taken: list[Window] = []
        self.epoch = "one"
        self.now_ns = 0
        self.released = threading.Event()
        """Lets hanging answers end."""
        self.arrived = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def wait_for(self, windows: int, timeout_s: float = 20) -> bool:
        """Wait until so many windows were taken."""
        with self.arrived:
            return self.arrived.wait_for(lambda: len(self.taken) >= windows, timeout_s)

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, headers: dict[str, str], body: bytes) -> tuple[Reply, bytes]:
        """Decide on one request; what was not rejected with status 200 is taken."""
        batch = unpack(body)
        windows = [_decoded(one) for one in batch.windows]
        with self.arrived:
            self.asked.append(headers)
            self.batches.append(windows)
            self.backfills.append(batch.backfill)
            reply = self.replies.pop(0) if self.replies else self.default(windows)
            answer = reply.answer or Answer(status=reply.status, error="" if reply.status == 200 else "told so")
            answer.store_epoch, answer.now_ns = self.epoch, self.now_ns
            if reply.status == 200 and reply.body is None and reply.cut_after < 0 and not reply.hang:
                refused = {one.index for one in answer.rejected}
                self.taken += [one for k, one in enumerate(windows) if one is not None and k not in refused]
            self.arrived.notify_all()
        return reply, msgspec.json.encode(answer) if reply.body is None else reply.body

    def _handler(fake) -> type[BaseHTTPRequestHandler]:  # noqa: N805 # `self` is the handler's below
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 65_536  # one packet an answer

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                reply, said = fake.take({"path": self.path, **dict(self.headers.items())}, body)
                if reply.hang:
                    fake.released.wait(30)
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                self.send_header("Content-Length", str(len(said)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(said[: reply.cut_after] if reply.cut_after >= 0 else said)
                self.close_connection = reply.close or reply.cut_after >= 0

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the name is the base class's
                """Quiet."""

        return Handler


def _decoded(body: msgspec.Raw) -> Window | None:
    try:
        return decode(body)
    except (WrongSchema, msgspec.DecodeError):
        return None


@pytest.fixture
def collector() -> Iterator[FakeCollector]:
    """A fake collector that takes everything unless it is told otherwise."""
    fake = FakeCollector()
    yield fake
    fake.close()


@pytest.fixture
def reply() -> type[Reply]:
    """What to tell the fake collector to answer."""
    return Reply


@pytest.fixture
def fake_time() -> FakeTime:
    """Clocks that stand still until they are moved."""
    return FakeTime()


@pytest.fixture
def make_window() -> Callable[..., Window]:
    """Good windows of one server, one minute each, one after the other; arguments replace fields."""
    minutes = itertools.count()

    def make(joules: int = 600, **changes: Any) -> Window:
        minute = next(minutes)
        total = 5 + joules * 1_000_000
        meter = MeterWindow(meter=WALL, first_uj=5, energy_uj=total - 5, last_uj=total, covered_ns=60 * S)
        window = Window(server="a", timeline=1, start_ns=minute * 60 * S, step_ns=60 * S, meters=(meter,))
        return msgspec.structs.replace(window, **changes)

    return make
