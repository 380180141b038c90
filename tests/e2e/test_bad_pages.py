"""Servers whose pages are anything but a page: an agent counts what is good, says what is not, and stays small."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from pathlib import Path

import pytest

from fixtures.collectors import Collector
from fixtures.processes import SIMULATED, agent_config, collecting, running, until
from joulefleet.window import Window
from joulefleet_agent.engine_cut import MAX_KEYS

UNIT = Path(__file__).parents[2] / "systemd" / "joulefleet-agent.service"
ODD_NAME = 'a "quoted" \\ name\nof two lines, with = and }'
LONG_NAME = "x" * 10_000
LINES = 49_000
REFUSED = {
    "huge": "too_large",
    "million": "too_large",
    "endless": "too_large",
    "dripping": "timeout",
    "binary": "malformed",
    "half": "truncated",
}
TURNS = 5
"""So many pages, each with label sets of its own, are read at least."""


def tokens(number: int, team: str, model: str = "M") -> bytes:
    quoted = [value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for value in (model, team)]
    return f'litellm_output_tokens_metric_total{{requested_model="{quoted[0]}",team="{quoted[1]}"}} {number}\n'.encode()


def lines(number: int, names: str) -> Iterator[bytes]:
    for first in range(0, number, 1_000):
        yield b"".join(tokens(1, f"{names}-{one}") for one in range(first, min(first + 1_000, number)))


PAGES: dict[str, Callable[[int], Iterable[bytes]]] = {
    "huge": lambda _: repeat(tokens(1, "t") * 10_000, 50_000_000 // len(tokens(1, "t") * 10_000) + 1),
    "million": lambda _: lines(1_000_000, "team"),
    "endless": lambda _: repeat(tokens(1, "t")),
    "dripping": lambda _: repeat(b" "),
    "binary": lambda turn: [bytes(range(256)) * (turn + 1)],
    "half": lambda _: [tokens(1, "t")[:-20]],
    "turning": lambda turn: lines(LINES, f"turn-{turn}"),
    "falling": lambda turn: [tokens(1_000 if turn % 2 else 7, "t")],
    "odd": lambda turn: [tokens(turn, ODD_NAME, ODD_NAME)],
    "long": lambda turn: [tokens(turn, LONG_NAME), tokens(turn, LONG_NAME + "y")],
}
"""What is sent at each turn, by path."""


class BadServer:
    """Sends each path's page, in pieces and without saying how long it is."""

    def __init__(self) -> None:
        self.turns: Counter[str] = Counter()
        self._ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def end(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/")
                self.send_response(200 if name in PAGES else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                turn = server.turns[name]
                server.turns[name] += 1
                # Whoever has had enough goes.
                with suppress(OSError):
                    for piece in PAGES.get(name, lambda _: [])(turn):
                        self.wfile.write(piece)
                        if name == "dripping" and server._ended.wait(0.05):
                            return

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def server() -> Iterator[BadServer]:
    bad = BadServer()
    yield bad
    bad.end()


def sources(url: str) -> str:
    head = '[[sources]]\nuse = "openmetrics"\nsoftware = "litellm"\ncount_at = "gateway"\nperiod_s = 1\n'
    # A long page takes its time; only the one that drips must not.
    waits = {name: 1 if name == "dripping" else 20 for name in PAGES}
    return "".join(f'{head}id = "{name}"\nurl = "{url}/{name}"\ntimeout_s = {waits[name]}\n' for name in PAGES)


def memory_max() -> int:
    """Bytes that the agent's unit allows it."""
    (megabytes,) = re.findall(r"^MemoryMax=(\d+)M$", UNIT.read_text(), re.M)
    return int(megabytes) * 2**20


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had."""
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(kilobytes) * 2**10


def said(windows: list[Window]) -> dict[str, set[str]]:
    """Why time of each engine is missing, in all windows."""
    out: dict[str, set[str]] = {}
    for engine in (one for window in windows for one in window.engines):
        out.setdefault(engine.engine.id, set()).update(engine.gaps_ns)
    return out


def is_told(collector: Collector, server: BadServer) -> bool:
    if server.turns["turning"] < TURNS or min(server.turns[name] for name in PAGES) < 2:
        return False
    windows = collector.windows()
    told, counted = said(windows), {e.engine.id for w in windows for e in w.engines if e.work and e.covered_ns}
    return (
        all(code in told.get(name, ()) for name, code in REFUSED.items()) and counted >= PAGES.keys() - REFUSED.keys()
    )


def test_pages_that_are_none_are_said_and_the_agent_stays_small(tmp_path: Path, server: BadServer) -> None:
    with collecting(tmp_path / "collector", tmp_path / "data") as (_, collector):
        config = agent_config(tmp_path, collector.url, SIMULATED + sources(server.url))
        with running(tmp_path / "agent", "agent", "run", "--config", str(config)) as agent:
            until(lambda: is_told(collector, server), f"all to be said, and not {said(collector.windows())}")
            peak = peak_bytes(agent.process.pid)
            assert agent.end() == 0, agent.err
        windows = collector.windows()
    print(f"peak {peak / 2**20:.0f} MiB of {memory_max() / 2**20:.0f}; pages: {dict(server.turns)}")
    assert peak < memory_max()
    assert "Traceback" not in agent.err
    engines = {name: [e for w in windows for e in w.engines if e.engine.id == name] for name in PAGES}
    for name in REFUSED:
        assert not any(one.work for one in engines[name]), "of a page that is refused nothing is counted"
    assert {work.key.tenant for one in engines["odd"] for work in one.work} == {ODD_NAME}
    assert {work.key.model for one in engines["odd"] for work in one.work} == {ODD_NAME}
    assert sum(work.counts.output_tokens or 0 for one in engines["odd"] for work in one.work) > 0
    assert {work.key.tenant for one in engines["long"] for work in one.work} == {"x" * 200}
    assert any(one.restarts for one in engines["falling"])
    fallen = [work.counts.output_tokens or 0 for one in engines["falling"] for work in one.work]
    assert 0 < sum(fallen) <= 1_000 * server.turns["falling"]
    turned = [one for one in engines["turning"] if one.covered_ns]
    assert turned and max(len(one.work) for one in turned) == MAX_KEYS
    assert all(sum(work.counts.output_tokens or 0 for work in one.work) <= LINES * TURNS for one in turned)
