"""Engines are found by the ports on which they listen: each once, without config, and nothing else is hurt."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from fixtures.fake_vllm import FakeVllm
from fixtures.processes import until
from joulefleet import SOMEWHERE, ConfigError, Engine, Failure, Reading, Reservation, SourceUnavailable, WorkReading
from joulefleet_plugins.interfaces.glance import STRANGE, Glance
from joulefleet_plugins.work import found
from joulefleet_plugins.work.found import GONE_LOOKS, LOOK_S, PERIOD_S, Config, FoundSource, open

HEAD = "sl local_address ...\n"
VLLM = '# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{{model_name="M"}} {}\n'
TGI = "# TYPE tgi_request_success counter\ntgi_request_success 3\n"
LITELLM = "# TYPE litellm_input_tokens_metric_total counter\nlitellm_input_tokens_metric_total 5\n"
RAY = '# TYPE ray_vllm_generation_tokens_total counter\nray_vllm_generation_tokens_total{model_name="M"} 5\n'
PROXY = "# TYPE joulefleet_proxy_output_tokens_total counter\njoulefleet_proxy_output_tokens_total 5\n"
BEGAN = "process_start_time_seconds {}\n"
PASSED_ON = (
    '# TYPE vllm_prompt_tokens counter\nvllm_prompt_tokens{model_name="M",job="a",instance="127.0.0.1:8000"} 5\n'
)
ANY = "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 5\n"


class Kernel:
    """Tells of the sockets that a test says: what else listens on this machine is left alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "net").mkdir(parents=True)
        (root / "sys/net/ipv4").mkdir(parents=True)
        (root / "sys/net/ipv4/ip_local_port_range").write_text("61000\t61001\n")
        self.listens: dict[int, str] = {}
        self.write()

    def write(self) -> None:
        rest = "00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0"
        lines = [f"0: 0100007F:{port:04X} {rest} {inode} 1\n" for port, inode in self.listens.items()]
        (self.root / "net/tcp").write_text(HEAD + "".join(lines))

    def listen(self, port: int, inode: str = "") -> None:
        self.listens[port] = inode or f"{port}0"
        self.write()

    def end(self, port: int) -> None:
        del self.listens[port]
        self.write()


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    def next_read(self) -> None:
        self.now_s += PERIOD_S

    def next_look(self) -> None:
        self.now_s += LOOK_S


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ends() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


Page = Callable[[], tuple[int, str]]


class Server(ThreadingHTTPServer):
    """At the loopback address of IPv4."""

    host = "127.0.0.1"


class Server6(Server):
    """At that of IPv6."""

    address_family = socket.AF_INET6
    host = "::1"


@pytest.fixture
def serve(ends: ExitStack, kernel: Kernel) -> Callable[[Page], tuple[int, list[str]]]:
    """Starts a server that shows a page under /metrics; its port, and the paths that it was asked for."""

    def started(page: Page, kind: type[Server] = Server) -> tuple[int, list[str]]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                status, text = page() if self.path == "/metrics" else (404, "")
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ends.enter_context(running(kind((kind.host, 0), Handler)))
        port: int = server.server_address[1]
        kernel.listen(port)
        return port, asked

    return started


@contextmanager
def running(server: ThreadingHTTPServer) -> Iterator[ThreadingHTTPServer]:
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def port_of(fake: FakeVllm) -> int:
    return int(fake.address.rpartition(":")[2])


def said(source: FoundSource) -> list[Reading]:
    """What it says now; nothing where there is no engine."""
    try:
        return source.read()
    except SourceUnavailable as error:
        assert error.code == "absent"
        return []


def engines(source: FoundSource) -> list[str]:
    said(source)
    return [one.id for one in source.declares]


def output(readings: list[Reading]) -> list[int | None]:
    counts = [one.counts for one in readings if isinstance(one, WorkReading)]
    return [sum(of.output_tokens or 0 for of in each.values()) if each else None for each in counts]


def test_an_engine_is_found_and_read_without_a_word_of_config(kernel: Kernel, clock: Clock, ends: ExitStack) -> None:
    vllm = ends.enter_context(FakeVllm(model="M"))
    kernel.listen(port_of(vllm))
    vllm.serve(prompt=10, output=5)
    source = FoundSource(Config(), kernel.root, clock)
    (engine,) = source.declares
    assert isinstance(engine, Engine)
    assert (engine.id, engine.software, engine.port) == (f"vllm@{vllm.address}", "vllm", port_of(vllm))
    # Nobody has told yet where it runs: it must not be taken to have the whole server.
    assert engine.devices == (Reservation(SOMEWHERE),)
    (reading,) = source.read()
    assert isinstance(reading, WorkReading) and reading.version == "0.14.0"
    assert output([reading]) == [5], "it ran before it was looked for: no reading tells when it stood at 0"


def test_an_engine_that_came_since_the_last_look_stood_at_nothing_then(
    kernel: Kernel, clock: Clock, ends: ExitStack
) -> None:
    source = FoundSource(Config(), kernel.root, clock)
    assert said(source) == []
    vllm = ends.enter_context(FakeVllm())
    vllm.serve(prompt=10, output=5)
    kernel.listen(port_of(vllm))
    clock.next_read()
    assert said(source) == [], "it is not looked for with every read"
    clock.next_look()
    began, now = (one for one in source.read() if isinstance(one, WorkReading))
    assert (began.age_ns, began.counts, began.epoch) == ((PERIOD_S + LOOK_S) * 1e9, {}, now.epoch)
    assert output([now]) == [5]
    clock.next_read()
    assert output(source.read()) == [5], "once is enough"


def test_one_that_has_ended_is_missed_for_a_while_and_then_gone(kernel: Kernel, clock: Clock) -> None:
    with FakeVllm() as vllm:
        kernel.listen(port_of(vllm))
        source = FoundSource(Config(), kernel.root, clock)
        assert len(source.declares) == 1
    kernel.end(port_of(vllm))
    for _ in range(GONE_LOOKS - 1):
        clock.next_look()
        (failure,) = source.read()
        assert isinstance(failure, Failure) and failure.code == "scrape_failed"
    clock.next_look()
    assert engines(source) == []


def test_one_that_is_started_anew_stays_the_same_engine(kernel: Kernel, clock: Clock, ends: ExitStack) -> None:
    vllm = ends.enter_context(FakeVllm())
    kernel.listen(port_of(vllm))
    source = FoundSource(Config(), kernel.root, clock)
    before = source.declares
    kernel.end(port_of(vllm))
    clock.next_look()
    source.read()
    vllm.restart()
    vllm.serve(prompt=1, output=2)
    kernel.listen(port_of(vllm), "another")
    clock.next_look()
    (reading,) = source.read()
    assert source.declares == before
    assert output([reading]) == [2], "its page tells that it began anew"


def test_another_engine_at_the_same_port_had_counted_nothing_when_the_page_was_last_read(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    page = [VLLM.format(5)]
    port, _ = serve(lambda: (200, page[0]))
    source = FoundSource(Config(), kernel.root, clock)
    assert output(source.read()) == [5]
    page[0] = VLLM.replace("vllm", "sglang").format(3)
    clock.next_read()
    began, now = (one for one in source.read() if isinstance(one, WorkReading))
    assert [one.id for one in source.declares] == [began.engine] == [f"sglang@127.0.0.1:{port}"]
    assert (began.age_ns, output([began, now])) == (PERIOD_S * 1e9, [None, 3])
    clock.next_read()
    assert output(source.read()) == [3]


def test_what_is_no_engine_is_asked_once(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    _, asked = serve(lambda: (401, ""))
    port, asked_too = serve(lambda: (200, "<html>"))
    source = FoundSource(Config(), kernel.root, clock)
    first = len(asked_too)
    for _ in range(20):
        clock.next_look()
        assert engines(source) == []
    assert (asked, len(asked_too)) == (["/metrics"], first)
    kernel.listen(port, "another process")
    clock.next_look()
    assert engines(source) == [] and len(asked_too) == 2 * first


def test_a_server_that_loads_its_model_is_asked_again(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    pages = iter([(503, ""), (200, ANY), *[(200, VLLM.format(1))] * 9])
    port, _ = serve(lambda: next(pages))
    source = FoundSource(Config(), kernel.root, clock)
    seen = []
    for _ in range(4):
        seen.append(engines(source))
        clock.next_look()
    assert seen == [[], [], [], [f"vllm@127.0.0.1:{port}"]]


def test_an_engine_of_which_nothing_can_be_counted_is_not_declared(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    serve(lambda: (200, TGI))
    assert engines(FoundSource(Config(), kernel.root, clock)) == [], "no page of it tells its model"


@pytest.mark.parametrize(
    ("page", "code"), [(LITELLM, "gateway"), (RAY, "gathered"), (PROXY, "gateway"), (PASSED_ON, "gathered")]
)
def test_pages_that_count_what_others_count_are_told_and_not_read(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]], page: str, code: str
) -> None:
    port, asked = serve(lambda: (200, page))
    source = FoundSource(Config(), kernel.root, clock)
    for _ in range(3):
        (failure,) = source.read()
        assert isinstance(failure, Failure)
        assert (failure.subject, failure.code) == (f"127.0.0.1:{port}", code)
        clock.next_look()
    assert asked == ["/metrics"] and source.declares == ()
    kernel.end(port)
    assert said(source) == []


def test_one_engine_at_two_ports_is_one(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    counted = [5]
    ports = [serve(lambda: (200, VLLM.format(counted[0])))[0] for _ in range(2)]
    source = FoundSource(Config(), kernel.root, clock)
    assert len(engines(source)) == 2, "two that have done little may be alike"
    counted[0] = 5_000
    clock.next_read()
    readings = source.read()
    assert len(readings) == 1 and [one.id for one in source.declares] == [f"vllm@127.0.0.1:{min(ports)}"]
    for _ in range(3):
        clock.next_look()
        assert len(engines(source)) == 1


def test_one_engine_at_two_ports_is_one_also_while_it_is_busy(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    counted = iter(range(5_000, 9_000, 7))
    ports = [serve(lambda: (200, VLLM.format(next(counted))))[0] for _ in range(2)]
    source = FoundSource(Config(), kernel.root, clock)
    assert len(source.read()) == 1 and [one.id for one in source.declares] == [f"vllm@127.0.0.1:{min(ports)}"]


def test_two_engines_that_began_at_one_moment_and_did_nearly_the_same_are_two(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    asked = [serve(lambda: (200, BEGAN.format(1.5) + VLLM.format(5_000)))[1]]
    asked.append(serve(lambda: (200, BEGAN.format(1.5) + VLLM.format(5_001)))[1])
    source = FoundSource(Config(), kernel.root, clock)
    assert len(engines(source)) == 2
    before = [len(one) for one in asked]
    clock.next_read()
    assert len(engines(source)) == 2
    assert [len(one) for one in asked] == [1 + one for one in before], "once they are known to be two, that stays"


def test_a_balancer_before_several_engines_is_told_and_not_read(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    pages = cycle([BEGAN.format(1.5) + VLLM.format(5_000), BEGAN.format(2.5) + VLLM.format(70_000)])
    port, _ = serve(lambda: (200, next(pages)))
    source = FoundSource(Config(), kernel.root, clock)
    for _ in range(3):
        (failure,) = source.read()
        assert isinstance(failure, Failure) and source.declares == ()
        assert (failure.subject, failure.code) == (f"127.0.0.1:{port}", "several_processes")
        clock.next_look()


def test_a_port_at_which_another_process_answers_later_and_the_first_one_again_is_read_no_more(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    began = [1.5]
    serve(lambda: (200, BEGAN.format(began[0]) + VLLM.format(5)))
    source = FoundSource(Config(), kernel.root, clock)
    seen = []
    for began[0] in (1.5, 2.5, 1.5, 1.5):
        seen.append([type(one).__name__ for one in source.read()])
        clock.next_read()
    assert seen == [["WorkReading"], ["WorkReading"], ["Failure"], ["Failure"]] and source.declares == ()


def test_only_what_is_named_is_asked_and_what_is_skipped_is_not(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    one, asked = serve(lambda: (200, VLLM.format(1)))
    other, asked_too = serve(lambda: (200, VLLM.format(1)))
    assert engines(FoundSource(Config(skip=(one,)), kernel.root, clock)) == [f"vllm@127.0.0.1:{other}"]
    assert asked == []
    asked_too.clear()
    assert engines(FoundSource(Config(ports=(one,)), kernel.root, clock)) == [f"vllm@127.0.0.1:{one}"]
    assert asked_too == []


def test_a_page_whose_end_comes_later_than_what_is_taken_at_first_is_known_and_read_whole(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    long = VLLM.format(1) + "".join(f'vllm_x{{le="{number}"}} 1\n' for number in range(20_000))
    port, _ = serve(lambda: (200, long + "vllm:num_requests_waiting 3\n"))
    source = FoundSource(Config(), kernel.root, clock)
    (reading,) = source.read()
    assert isinstance(reading, WorkReading) and reading.queued == 3 and reading.engine == f"vllm@127.0.0.1:{port}"


def test_a_server_that_does_not_answer_delays_no_other(kernel: Kernel, clock: Clock, ends: ExitStack) -> None:
    mute = ends.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
    kernel.listen(mute.getsockname()[1])
    vllm = ends.enter_context(FakeVllm())
    source = FoundSource(Config(), kernel.root, clock)
    kernel.listen(port_of(vllm))
    clock.next_look()
    assert until(lambda: engines(source), "the engine beside the mute one") == [f"vllm@{vllm.address}"]


def test_a_port_whose_answer_is_still_to_come_is_not_asked_again_meanwhile(
    kernel: Kernel, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    gate = threading.Event()

    def slow(_host: str, port: int, _path: str) -> Glance:
        asked.append(port)
        gate.wait()
        return STRANGE

    for name, value in {"glance": slow, "ASKING": 1, "FIRST_WITHIN_S": 0.0, "ANSWERS_WITHIN_S": 0.0}.items():
        monkeypatch.setattr(found, name, value)
    kernel.listen(8001)
    kernel.listen(8002)
    source = FoundSource(Config(), kernel.root, clock)
    for _ in range(3):
        clock.next_look()
        assert engines(source) == []
    gate.set()
    kernel.listen(8003)
    clock.next_look()
    assert engines(source) == []
    assert until(lambda: 8003 in asked, "the last port's turn") and asked == [8001, 8002, 8003]


def test_a_server_that_takes_ipv6_alone_is_found_at_its_loopback_address(
    kernel: Kernel, clock: Clock, serve: Callable[..., tuple[int, list[str]]]
) -> None:
    port, _ = serve(lambda: (200, VLLM.format(5)), Server6)
    source = FoundSource(Config(), kernel.root, clock)
    assert engines(source) == [f"vllm@[::1]:{port}"] and output(source.read()) == [5]


def test_pages_that_take_long_are_waited_for_all_at_once(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    met, waits = threading.Barrier(2), False

    def page(number: int) -> tuple[int, str]:
        if waits:
            met.wait(20)
        return 200, VLLM.format(number)

    serve(lambda: page(1))
    serve(lambda: page(2))
    source = FoundSource(Config(), kernel.root, clock)
    waits = True
    assert sorted(map(str, output(source.read()))) == ["1", "2"]


def test_many_slow_engines_are_taken_up_one_read_after_another(
    kernel: Kernel, clock: Clock, serve: Callable[[Page], tuple[int, list[str]]]
) -> None:
    def slow() -> tuple[int, str]:
        clock.now_s += PERIOD_S
        return 200, VLLM.format(1)

    for _ in range(2):
        serve(slow)
    source = FoundSource(Config(), kernel.root, clock)
    assert len(source.declares) == 1
    assert len(engines(source)) == 2


def test_the_sockets_of_this_very_process_are_left_alone(kernel: Kernel, clock: Clock, ends: ExitStack) -> None:
    vllm = ends.enter_context(FakeVllm())
    kernel.listen(port_of(vllm), "4711")
    (kernel.root / "self/fd").mkdir(parents=True)
    (kernel.root / "self/fd/3").symlink_to("socket:[4711]")
    assert engines(FoundSource(Config(), kernel.root, clock)) == []
    assert vllm.connections == 0


def test_this_machine_is_looked_at(ends: ExitStack) -> None:
    vllm = ends.enter_context(FakeVllm())
    source = open({"ports": [port_of(vllm)]})
    # It is a socket of this process, which a source leaves alone.
    assert source.declares == () and vllm.scrapes == 0


@pytest.mark.parametrize("table", [{"port": 1}, {"ports": [0]}, {"skip": "8000"}])
def test_what_cannot_be_used_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        open(table)
