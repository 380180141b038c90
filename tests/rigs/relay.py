"""A relay's door with one server's meter behind it, whose answers a test can break."""

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec

from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import Source
from joulefleet.token import Keys
from joulefleet.units import j_to_uj, s_to_ns, w_to_mw
from joulefleet_agent.relay_desk import Desk
from joulefleet_agent.relay_door import Access, Door, Refusal
from joulefleet_plugins.meters import relay

METER = Meter(
    id="input",
    kind="server",
    grade="counter",
    sensor_class="platform",
    max_power_mw=w_to_mw(3_000),
    resolution_uj=j_to_uj(1),
    refresh_ns=s_to_ns(1),
)
HUGE_W = 90_000


class RelayRig:
    """The relay reads a counter and its gauge each time that `run` is called."""

    def __init__(self) -> None:
        self._boot_ns = s_to_ns(1)
        self._energy_j = 0.0
        self._value: Callable[[MeterReading], MeterReading | Failure] = _as_it_is
        self._instead: bytes | Refusal | None = None
        self._released = Event()
        self._released.set()
        self._desk = Desk(["bmc"], {"a": {"bmc": frozenset()}}, "life", s_to_ns(10))
        self._desk.declare("bmc", [METER])
        self.faults: Mapping[str, Callable[[], None]] = {
            "fails": lambda: self._answer(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "busy")),
            "gone": lambda: self._tell(lambda _: Failure(subject="input", code="gone")),
            "hangs": self._released.clear,
            "rubbish": lambda: self._answer(b"\x93no answer"),
            "empty": lambda: self._answer(b""),
            "negative": lambda: self._tell(lambda one: msgspec.structs.replace(one, counter_uj=-1, power_mw=-1)),
            "huge": lambda: self._tell(
                lambda one: msgspec.structs.replace(one, counter_uj=2**61, power_mw=w_to_mw(HUGE_W))
            ),
            "stuck": self._stick,
        }
        self.url = ""

    def open(self) -> Source:
        """The source, asking the rig's door, in the rig's time."""
        return relay.opened(relay.RelayConfig(url=self.url, server="a"), lambda: self._boot_ns)

    def run(self, seconds: float, power_w: float) -> None:
        self._boot_ns += s_to_ns(seconds)
        self._energy_j += seconds * power_w
        reading = MeterReading(meter="input", counter_uj=j_to_uj(self._energy_j), power_mw=w_to_mw(power_w))
        self._desk.feed("bmc", [self._value(reading)], self._boot_ns, 0)

    def mend(self) -> None:
        self._value, self._instead = _as_it_is, None
        self._released.set()

    def tell(self, server: str, life: str, since: int) -> bytes | None:
        """What the door answers."""
        self._released.wait()
        if isinstance(self._instead, Refusal):
            raise self._instead
        if self._instead is not None:
            return self._instead
        return self._desk.answer(server, life, since, self._boot_ns).encode()

    def _answer(self, instead: bytes | Refusal) -> None:
        self._instead = instead

    def _tell(self, value: Callable[[MeterReading], MeterReading | Failure]) -> None:
        self._value = value

    def _stick(self) -> None:
        at_uj = j_to_uj(self._energy_j)
        self._tell(lambda one: msgspec.structs.replace(one, counter_uj=at_uj))


def _as_it_is(reading: MeterReading) -> MeterReading | Failure:
    return reading


@contextmanager
def rig(folder: Path, keys: Keys | None = None, tls: ssl.SSLContext | None = None) -> Iterator[RelayRig]:
    made = RelayRig()
    door = Door(("127.0.0.1", 0), made.tell, Access(keys, lambda: 0), tls)
    thread = Thread(target=door.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    made.url = door.url
    try:
        yield made
    finally:
        made.mend()
        door.shutdown()
        door.server_close()
        thread.join(10)


def absent(folder: Path) -> dict[str, Any]:
    """A port where no relay listens."""
    with rig(folder) as made:
        url = made.url
    return {"url": url, "server": "a"}
