"""The relay: reads meters that only the management network reaches, and tells them to the agents of their servers."""

import logging
import queue
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from joulefleet.config import ConfigError
from joulefleet.notify import ALIVE, READY, STOPPING, notify
from joulefleet.reading import Failure
from joulefleet.token import load_keys
from joulefleet.units import ns_to_s
from joulefleet_agent.clock import NowNs, boot_ns, wall_ns
from joulefleet_agent.relay_config import Listen, RelayConfig
from joulefleet_agent.relay_desk import Desk
from joulefleet_agent.relay_door import Access, Door, Tell
from joulefleet_agent.sampler import (
    LONGEST_QUEUE,
    Absent,
    Configured,
    Event,
    Gone,
    MustEnd,
    Opened,
    Reader,
    Refused,
    Said,
)
from joulefleet_agent.service import EXIT_AGAIN, EXIT_OK
from joulefleet_agent.sources import opener_of

LOG = logging.getLogger(__name__)
BEAT_S = 1.0


class Relay:
    """Takes what the sources say, and tells each server its own."""

    def __init__(self, config: RelayConfig, boot: NowNs = boot_ns, wall: NowNs = wall_ns) -> None:
        self.exit_code = EXIT_OK
        self._boot = boot
        self._wall = wall
        self._desk = Desk(tuple(config.sources), config.rights, secrets.token_hex(8))
        self._lock = threading.Lock()
        self._said: dict[str, str] = {}

    def tell(self, server: str, life: str, since: int) -> bytes | None:
        """The answer to this server; None where nothing is relayed for it. Called from any thread."""
        if not self._desk.serves(server):
            return None
        with self._lock:
            answer = self._desk.answer(server, life, since, self._boot())
        return answer.encode()

    def take(self, event: Event) -> None:
        """One thing that a source said. Raises ConfigError where the source cannot use its table."""
        with self._lock:
            match event:
                case Opened():
                    missing = self._desk.declare(event.source, event.declares)
                    self._log(event.source, f"open, {len(event.declares)} declared")
                    if missing:
                        LOG.error("source %s has no meter %s, which `serves` names", event.source, ", ".join(missing))
                case Absent():
                    self._log(event.source, f"{event.code}: {event.detail}" + (f"; {event.mend}" if event.mend else ""))
                    self._desk.close(event.source, Failure(subject="", code=event.code, detail=event.detail))
                case Refused():
                    raise event.error
                case Said():
                    self._desk.feed(event.source, event.readings, event.boot_ns, self._wall() - self._boot())
                case Gone():
                    self._log(event.source, "ended")
                    self._desk.declare(event.source, ())
                case MustEnd():
                    LOG.error("source %s: %s; this process ends, to be started again", event.source, event.reason)
                    self.exit_code = EXIT_AGAIN

    def watch(self, readers: Mapping[str, Reader]) -> None:
        """Note which sources hang."""
        for name, reader in readers.items():
            hung = reader.overdue(self._boot())
            if hung:
                with self._lock:
                    self._desk.feed(name, [hung], self._boot(), 0)

    def _log(self, source: str, sentence: str) -> None:
        if self._said.get(source) != sentence:
            self._said[source] = sentence
            LOG.info("%s: %s", source, sentence)


def run_relay(config: RelayConfig, where: str, stop: threading.Event, listens: Callable[[str], None]) -> int:
    """Run until `stop` is set; `listens` is told the URL. Raises ConfigError. Returns the exit code."""
    relay = Relay(config)
    events: queue.Queue[Event] = queue.Queue(LONGEST_QUEUE)
    readers = {name: Reader(one, boot_ns, events, stop) for name, one in configured(config, where).items()}
    with listening(config, relay.tell) as url:
        for reader in readers.values():
            reader.start()
        listens(url)
        notify(READY)
        try:
            while not stop.is_set():
                _take_waiting(relay, events, where)
                relay.watch(readers)
                if relay.exit_code:
                    stop.set()
                notify(ALIVE)
        finally:
            stop.set()
            notify(STOPPING)
    return relay.exit_code


def _take_waiting(relay: Relay, events: "queue.Queue[Event]", where: str) -> None:
    """What waits, or what comes within a beat."""
    try:
        event = events.get(timeout=BEAT_S)
        while True:
            relay.take(event)
            event = events.get_nowait()
    except queue.Empty:
        return
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.where}", error.key, error.expected) from error


def configured(config: RelayConfig, where: str) -> dict[str, Configured]:
    """Every source by the operator's name for it. Raises ConfigError for one that is not installed."""
    return {
        name: Configured(
            name, opener_of(table["use"], where), {key: value for key, value in table.items() if key != "use"}
        )
        for name, table in config.sources.items()
    }


@contextmanager
def listening(config: RelayConfig, tell: Tell) -> Iterator[str]:
    """The door, open in a thread; its URL. Raises ConfigError for a place, keys or a certificate of no use."""
    keys = load_keys(Path(config.key_file)) if config.key_file else None
    place, tls = (config.listen.host, config.listen.port), tls_of(config.listen)
    try:
        door = Door(place, tell, Access(keys, lambda: ns_to_s(wall_ns())), tls)
    except OSError as error:
        raise ConfigError("listen", "", f"{place[0]}:{place[1]} is not to be had: {error.strerror}") from error
    thread = threading.Thread(target=door.serve_forever, name="door", daemon=True)
    thread.start()
    try:
        yield door.url
    finally:
        door.shutdown()
        door.server_close()
        thread.join()


def tls_of(listen: Listen) -> ssl.SSLContext | None:
    """The certificate with which the door shows itself. Raises ConfigError."""
    if not listen.has_tls:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(listen.tls_certificate, listen.tls_key)
    except (OSError, ssl.SSLError) as error:
        reason = (None if isinstance(error, ssl.SSLError) else error.strerror) or error
        files = f"{listen.tls_certificate}, {listen.tls_key}"
        raise ConfigError("listen", "", f"no certificate with its key in {files}: {reason}") from error
    return context
