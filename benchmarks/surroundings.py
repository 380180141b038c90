"""What the agent and its peers read in their benchmark: moving counters in a powercap tree, and a vLLM page of 20 KB.

Both move in processes of their own, on the core that is not measured.
"""

import multiprocessing
import os
import socketserver
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = 10
ZONES = ("package", "dram", "core")
RANGE_UJ = 262_143_328_850
FIRST_UJ = 100_000_000_000
"""Has as many digits as every value that follows: a file is never read half written."""
POWER_UW = 40_000_000
MARK = "@"
"""Where the page has a number that grows."""
REASONS = ("stop", "length", "abort", "error", "repetition")
COUNTERS = ("num_preemptions", "prompt_tokens", "prompt_tokens_cached", "generation_tokens", "prefix_cache_queries")
SHORT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
LONG_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
HISTOGRAMS: dict[str, tuple[float, ...]] = {
    "time_to_first_token_seconds": SHORT_S,
    "inter_token_latency_seconds": SHORT_S,
    "e2e_request_latency_seconds": LONG_S,
    "request_queue_time_seconds": LONG_S,
    "request_inference_time_seconds": LONG_S,
    "request_prompt_tokens": TOKENS,
    "request_generation_tokens": TOKENS,
}


def powercap(folder: Path) -> list[Path]:
    """Make a tree of 30 zones there; their counters' files."""
    counters = []
    for package in range(PACKAGES):
        for part, name in enumerate(ZONES):
            zone = folder / (f"intel-rapl:{package}" + (f":{part - 1}" if part else ""))
            zone.mkdir(parents=True)
            (zone / "name").write_text(f"{name}-{package}\n" if not part else f"{name}\n")
            (zone / "enabled").write_text("1\n")
            (zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
            (zone / "energy_uj").write_text(f"{FIRST_UJ}\n")
            counters.append(zone / "energy_uj")
    return counters


def page(count: int) -> bytes:
    """What a vLLM server with one model shows when every bucket and counter has come so far."""
    return "\n".join([*_lines(), ""]).replace(MARK, str(count)).encode()


def _lines() -> Iterator[str]:
    labels = 'engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"'
    yield from ("# TYPE process_start_time_seconds gauge", "process_start_time_seconds 1.7537953265e+09")
    for name in ("num_requests_running", "num_requests_waiting"):
        yield from (f"# HELP vllm:{name} {name}", f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{labels}}} 4.0")
    for name in COUNTERS:
        yield from (f"# HELP vllm:{name}_total {name}", f"# TYPE vllm:{name}_total counter")
        yield f"vllm:{name}_total{{{labels}}} {MARK}.0"
    yield "# TYPE vllm:request_success_total counter"
    for reason in REASONS:
        yield f'vllm:request_success_total{{finished_reason="{reason}",{labels}}} {MARK}.0'
    for name, edges in HISTOGRAMS.items():
        yield from (f"# HELP vllm:{name} {name}", f"# TYPE vllm:{name} histogram")
        for edge in (*map(str, edges), "+Inf"):
            yield f'vllm:{name}_bucket{{{labels},le="{edge}"}} {MARK}.0'
        yield from (f"vllm:{name}_count{{{labels}}} {MARK}.0", f"vllm:{name}_sum{{{labels}}} {MARK}.5")


@contextmanager
def beside(core: int, target: object, *arguments: object) -> Iterator[None]:
    """A function that runs for ever in a process on this core, until the end of the block."""

    def pinned() -> None:
        os.sched_setaffinity(0, {core})
        target(*arguments)  # type: ignore[operator]  # any function

    process = multiprocessing.get_context("fork").Process(target=pinned, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def move(counters: list[Path], period_s: float) -> None:
    """Let all counters rise at one power, for ever."""
    files = [os.open(path, os.O_WRONLY) for path in counters]
    began_s = time.monotonic()
    while True:
        value_uj = FIRST_UJ + int(POWER_UW * (time.monotonic() - began_s))
        for file in files:
            os.pwrite(file, b"%d\n" % value_uj, 0)
        time.sleep(period_s)


class Pages(socketserver.ThreadingTCPServer):
    """Answers every question with the page as it is now; connections stay open."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/metrics"


class _Answer(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with suppress(ConnectionError):  # who asks may be ended at any time
            while line := self.rfile.readline():
                while self.rfile.readline() not in (b"\r\n", b""):
                    pass
                self.wfile.write(_answer(line))


def _answer(question: bytes) -> bytes:
    is_page = question.startswith(b"GET /metrics")
    kind, body = (b"text/plain; version=0.0.4", page(int(time.monotonic() * 10))) if is_page else _VERSION
    return b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)


_VERSION = (b"application/json", b'{"version": "0.14.0"}')
