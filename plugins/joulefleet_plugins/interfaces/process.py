"""Runs a vendor's tool, once or on and on, in bounds of time and output, and leaves nothing of it behind.

A tool gets no shell and no input, a process group of its own and only the environment that it is given. The whole
group is killed when it took too long or said too much, and also when it has ended, since it may have left children.
Its group is killed before the tool is waited for: until then no other process can have its number.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

from joulefleet.units import s_to_ns

MAX_OUTPUT_BYTES = 1024 * 1024
MAX_COMPLAINT_BYTES = 4096
MAX_COMPLAINT_CHARACTERS = 200
MAX_LINES = 1000
"""Lines of a running tool that wait to be taken; the oldest goes first."""
CHUNK_BYTES = 64 * 1024
REAP_S = 1.0
RESTART_NS = s_to_ns(10)
"""A tool that ended is started again, but not more often than this."""

Running = subprocess.Popen[bytes]


class CommandFailed(Exception):
    """A tool that did not do what it should."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        """`absent`, `permission`, `exit_status`, `timeout`, `too_large`, `ended`, `unkillable` or `kernel`."""
        self.detail = detail
        super().__init__(code, detail)

    def __str__(self) -> str:
        return self.detail


class Command:
    """A tool that prints what it has to say and ends."""

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        timeout_s: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.argv = argv
        self.environment = environment
        self.timeout_s = timeout_s
        self._now_s = now_s
        self._left: Running | None = None
        """One that did not end when it was killed: it hangs in the kernel, on a device that is gone."""

    def run(self) -> bytes:
        """What it prints. Raises CommandFailed where it does not end well, and in time."""
        _check_ended(self._left, self.argv)
        until_s = self._now_s() + self.timeout_s
        self._left = process = _started(self.argv, self.environment)
        printed, complained = bytearray(), bytearray()
        try:
            with contextlib.closing(_said(process, lambda: until_s - self._now_s())) as said:
                for stream, some in said:
                    _keep(printed if stream is process.stdout else complained, some, stream is process.stdout)
        except TimeoutError:
            raise CommandFailed("timeout", f"{self.argv[0]} did not end within {self.timeout_s:g} s") from None
        finally:
            _end(process)
        if process.returncode != 0:
            raise CommandFailed("exit_status", f"{self.argv[0]} ended with {_status(process)}{_complaint(complained)}")
        return bytes(printed)


class Line(NamedTuple):
    """A line that a running tool printed, and when by the clock of the stream."""

    came_ns: int
    text: bytes


class Lines:
    """A tool that runs on and on and prints a line for each sample; a thread reads them as they come."""

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Raises CommandFailed where the tool cannot be started."""
        self._argv = argv
        self._environment = environment
        self._now_ns = now_ns
        self.started_ns = 0
        """When the tool was started last, by the clock of the stream."""
        self._start()

    def take(self) -> list[Line]:
        """The lines since they were taken last. Raises CommandFailed where the tool has ended; it is started again."""
        taken = [self._tool.lines.popleft() for _ in range(len(self._tool.lines))]
        if taken or self._reader.is_alive():
            return taken
        detail = f"{self._argv[0]} {self._tool.told_end()}"
        if self._now_ns() - self.started_ns >= RESTART_NS:
            _check_ended(self._tool.process, self._argv)
            self._kill.detach()
            self._start()
        raise CommandFailed("ended", detail)

    def end(self) -> None:
        """Kill the tool; the next `take` says that it has ended."""
        self._kill()
        self._reader.join(REAP_S)

    def _start(self) -> None:
        self._tool = _Tool(_started(self._argv, self._environment), self._now_ns)
        self.started_ns = self._now_ns()
        # Nobody closes a source: the tool ends with it, or with the agent.
        self._kill = weakref.finalize(self, _kill, self._tool.process)
        self._reader = threading.Thread(target=self._tool.read, name=f"lines of {self._argv[0]}", daemon=True)
        self._reader.start()


class _Tool:
    """One life of a running tool."""

    def __init__(self, process: Running, now_ns: Callable[[], int]) -> None:
        self.process = process
        self.lines: deque[Line] = deque(maxlen=MAX_LINES)
        self._now_ns = now_ns
        self._complained = bytearray()
        self._why = ""

    def read(self) -> None:
        """Until the tool ends. Called by a thread of its own, which holds nothing that would keep the source alive."""
        rest = bytearray()
        try:
            for stream, some in _said(self.process, lambda: None):
                if stream is self.process.stderr:
                    _keep(self._complained, some, False)
                    continue
                *whole, tail = (bytes(rest) + some).split(b"\n")
                self.lines.extend(Line(self._now_ns(), line) for line in whole)
                rest.clear()
                _keep(rest, tail, True)
        except CommandFailed as error:
            self._why = str(error)
        finally:
            _end(self.process)

    def told_end(self) -> str:
        """How it ended."""
        if self._why:
            return f"was killed: {self._why}"
        return f"ended with {_status(self.process)}{_complaint(self._complained)}"


def _check_ended(process: Running | None, argv: Sequence[str]) -> None:
    """One after another, so that a device that hangs does not gather processes. Raises CommandFailed."""
    if process is not None and process.poll() is None:
        detail = f"{argv[0]} of before, process {process.pid}, was killed and has not ended: it may hang in the kernel"
        raise CommandFailed("unkillable", detail)


def _started(argv: Sequence[str], environment: Mapping[str, str]) -> Running:
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=dict(environment),
            start_new_session=True,
        )
    except OSError as error:
        code = "permission" if isinstance(error, PermissionError) else "absent"
        raise CommandFailed(code, f"{argv[0]} cannot be started: {error.strerror}") from error


def _said(process: Running, left_s: Callable[[], float | None]) -> Generator[tuple[object, bytes], None, None]:
    """What a tool prints and complains of, until it has ended; its children may still hold the pipes then.

    Raises TimeoutError when no time is left.
    """
    with _ending(process) as ended, selectors.DefaultSelector() as ready:
        ready.register(ended, selectors.EVENT_READ, None)
        for stream in (process.stdout, process.stderr):
            assert stream is not None, "both were asked for"
            os.set_blocking(stream.fileno(), False)
            ready.register(stream, selectors.EVENT_READ, stream)
        while True:
            keys = _selected(ready, left_s())
            said = [(key.data, some) for key in keys if key.data and (some := _chunk(ready, key))]
            yield from said
            if not said and any(key.data is None for key in keys):
                return


def _selected(ready: selectors.BaseSelector, left_s: float | None) -> list[selectors.SelectorKey]:
    keys = [key for key, _ in ready.select(left_s)] if left_s is None or left_s > 0 else []
    if not keys:
        raise TimeoutError
    return keys


def _chunk(ready: selectors.BaseSelector, key: selectors.SelectorKey) -> bytes:
    some = os.read(key.fd, CHUNK_BYTES)
    if not some:
        ready.unregister(key.fileobj)
    return some


@contextlib.contextmanager
def _ending(process: Running) -> Iterator[int]:
    """A descriptor that can be read when the tool has ended, though it was not waited for."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError as error:
        raise CommandFailed("kernel", f"tools need Linux 5.3 or later (pidfd_open): {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _keep(kept: bytearray, some: bytes, whole: bool) -> None:
    """Add to what was said; of complaints (not `whole`) the beginning is enough."""
    kept += some
    if not whole:
        del kept[MAX_COMPLAINT_BYTES:]
    elif len(kept) > MAX_OUTPUT_BYTES:
        raise CommandFailed("too_large", f"more than {MAX_OUTPUT_BYTES} bytes of output")


def _kill(process: Running) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _end(process: Running) -> None:
    _kill(process)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    # One that hangs in the kernel, or that is not ours to kill, is looked for before the next one is started.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(REAP_S)


def _status(process: Running) -> str:
    code = process.returncode
    return f"signal {-code}" if code is not None and code < 0 else f"status {code}"


def _complaint(complained: bytearray) -> str:
    """The last line of what a tool complained of, to be put behind how it ended."""
    lines = [line for line in complained.decode("utf-8", errors="replace").splitlines() if line.strip()]
    return f": {lines[-1].strip()[:MAX_COMPLAINT_CHARACTERS]}" if lines else ""
