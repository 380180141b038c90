"""The systems that a collector is compared with, each in a process of its own on the collector's core.

They run as Debian packages them and with their defaults, but for connections, which stay open as long as the run.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from collector import ANSWER_S, COLLECTOR_CORE, Collector

START_S = 30.0
REST_S = 60.0
BLOCK_BYTES = 512
QUIET_SHARE = 0.02
"""Of a core, for a second: the server has nothing left to do."""
LOG_BYTES = 8_192
"""Of a log in which nothing is left but what it begins with."""
DATABASE = "fleet"


class Paused(Collector):
    """A collector that stands still while others have their turn on its core."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, workers=1)
        self.folder = folder

    def pause(self) -> None:
        """It does nothing, in the background either, until it is resumed."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Its turn has come."""
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """As its service manager would; one that stands still would not hear it."""
        self.resume()
        super().end()


class Peer(Paused):
    """A server of somebody else that takes line protocol."""

    NAME = PROGRAM = DURABLE = STORES = ""
    HEALTH, WRITE = "/health", "/write?precision=s"
    LONG_CONNECTIONS = ("-http.connTimeout=24h", "-http.idleConnTimeout=24h", "-loggerLevel=ERROR")

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.host, self.port = "127.0.0.1", free_port()
        self._process = self._start(self.options())
        self.url = f"http://{self.host}:{self.port}"
        self._wait_for_answer()

    @classmethod
    def version(cls) -> str | None:
        """What is installed; None where nothing is."""
        found = shutil.which(cls.PROGRAM)
        if found is None:
            return None
        told = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
        number = re.search(r"\d+\.\d+\.\d+", told.stdout + told.stderr)
        return number[0] if number else "unknown"

    def options(self) -> list[str]:
        """Of its command line."""
        raise NotImplementedError  # each peer has its own

    def prepare(self) -> None:
        """Before the first batch."""

    def let_out(self) -> None:
        """Have it write what it holds in memory, so that it can be counted on disk."""

    def stored(self) -> int:
        """Bytes on disk, once it has ended."""
        return size_of(self.folder)

    def rest(self) -> None:
        """Wait until it has nothing left to do."""
        until_s = time.monotonic() + REST_S
        while time.monotonic() < until_s:
            before_s = self.cpu_s()
            time.sleep(1)
            if self.cpu_s() - before_s < QUIET_SHARE:
                return

    def _start(self, options: list[str]) -> "subprocess.Popen[str]":
        # It inherits its core: a program in Go asks only when it starts how many it may use.
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {COLLECTOR_CORE})
        try:
            nothing = subprocess.DEVNULL
            return subprocess.Popen([self.PROGRAM, *options], stdout=nothing, stderr=nothing, text=True)
        finally:
            os.sched_setaffinity(0, before)

    def _wait_for_answer(self) -> None:
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s and self._process.poll() is None:
            try:
                call(self.url + self.HEALTH)
            except HTTPError:
                return
            except OSError:
                time.sleep(0.05)
            else:
                return
        self._process.kill()
        self._process.wait()
        raise RuntimeError(f"{self.PROGRAM} does not answer at {self.url}; run it by hand to see why")


class Vmagent(Peer):
    """VictoriaMetrics' agent while what it writes to is down: it keeps everything in its queue on disk."""

    NAME, PROGRAM = "vmagent", "vmagent"
    DURABLE = "no: in memory, then in a file that is not synced"
    STORES = "every reading with its labels, compressed blocks in a queue, no index"

    def options(self) -> list[str]:
        nobody = f"http://127.0.0.1:{free_port()}/api/v1/write"
        where = [f"-remoteWrite.url={nobody}", f"-remoteWrite.tmpDataPath={self.folder}"]
        return [*where, f"-httpListenAddr={self.host}:{self.port}", *self.LONG_CONNECTIONS]


class VictoriaMetrics(Peer):
    """VictoriaMetrics, one node."""

    NAME, PROGRAM = "VictoriaMetrics", "victoria-metrics"
    DURABLE = "no: in memory for seconds, no log to write ahead"
    STORES = "every reading, compressed, and an index of all labels"

    def options(self) -> list[str]:
        where = [f"-storageDataPath={self.folder}", f"-httpListenAddr={self.host}:{self.port}"]
        return [*where, "-retentionPeriod=100y", *self.LONG_CONNECTIONS]

    def let_out(self) -> None:
        call(f"{self.url}/internal/force_flush")

    def stored(self) -> int:
        """Without the caches that it writes when it ends."""
        return size_of(self.folder / "data") + size_of(self.folder / "indexdb")


class InfluxDB(Peer):
    """InfluxDB 1.x."""

    NAME, PROGRAM = "InfluxDB", "influxd"
    DURABLE = "yes: log synced"
    STORES = "every reading, compressed, and an index of all labels"
    HEALTH, WRITE = "/ping", f"/write?db={DATABASE}&precision=s"

    @classmethod
    def version(cls) -> str | None:
        found = shutil.which(cls.PROGRAM)
        if found is None:
            return None
        told = subprocess.run([found, "version"], capture_output=True, text=True, check=False).stdout
        number = re.search(r"v(1\.\d+\.\d+)", told)
        return number[1] if number else None

    def options(self, cold_s: int = 600) -> list[str]:
        """`cold_s` is how long nothing is written before it brings its log into its files; 600 by default."""
        config = self.folder / "influxdb.conf"
        config.write_text(
            f"""reporting-disabled = true
bind-address = "127.0.0.1:{free_port()}"
[meta]
dir = "{self.folder}/meta"
[data]
dir = "{self.folder}/data"
wal-dir = "{self.folder}/wal"
query-log-enabled = false
cache-snapshot-write-cold-duration = "{cold_s}s"
[monitor]
store-enabled = false
[http]
bind-address = "{self.host}:{self.port}"
log-enabled = false
"""
        )
        return ["-config", str(config)]

    def prepare(self) -> None:
        call(f"{self.url}/query", b"q=CREATE+DATABASE+" + DATABASE.encode())

    def let_out(self) -> None:
        """Only one that is started anew can be told to bring its log in soon; it does so after the next write."""
        self.end()
        self._process = self._start(self.options(cold_s=1))
        self._wait_for_answer()
        call(self.url + self.WRITE, b"rest last=1 1790000000")
        until_s = time.monotonic() + REST_S
        while size_of(self.folder / "wal") > LOG_BYTES and time.monotonic() < until_s:
            time.sleep(0.2)

    def stored(self) -> int:
        """Its data and what is left of its log."""
        return size_of(self.folder / "data") + size_of(self.folder / "wal")


PEERS: tuple[type[Peer], ...] = (Vmagent, VictoriaMetrics, InfluxDB)


def call(url: str, body: bytes | None = None) -> None:
    """Ask and expect a good answer. Raises OSError."""
    with urlopen(Request(url, body), timeout=ANSWER_S) as answer:
        answer.read()


def free_port() -> int:
    """One on which nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def size_of(folder: Path) -> int:
    """Bytes that all files in it take on disk, holes not counted, nor what goes meanwhile."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_blocks * BLOCK_BYTES if path.is_file() else 0
        except FileNotFoundError:
            continue
    return size
