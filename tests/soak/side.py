"""One store of a soak with the collectors before it, and the real agents that deliver to them."""

import json
import random
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import msgspec

from fixtures.services import influxd_1, influxd_1_config
from soak.life import Kept

OURS = (sys.executable, "-m", "joulefleet")
KEEP_ALL_S = 86_400
"""A real agent keeps every window that was stored: its spool is what its sums are compared with."""


class Side(msgspec.Struct):
    """A store, its collectors and who knows them."""

    name: str
    urls: tuple[str, ...]
    collectors: tuple[Kept, ...]
    store: Kept | None = None
    """The database; an embedded store lives in its collector."""
    store_url: str = ""
    agents: tuple[Kept, ...] = ()
    spools: tuple[Path, ...] = ()

    @property
    def kept(self) -> tuple[Kept, ...]:
        """All processes, the store first."""
        return (*((self.store,) if self.store else ()), *self.collectors, *self.agents)


def sides(folder: Path, real_agents: int) -> list[Side]:
    """The embedded store and, where it is installed, InfluxDB 1.x, each with its share of the real agents."""
    influxd = influxd_1()
    several = [_embedded(folder)] + ([_influxdb(folder, influxd)] if influxd else [])
    for number in range(real_agents):
        _add_agent(several[number % len(several)], folder, f"agent-{number + 1}")
    return several


def _embedded(folder: Path) -> Side:
    (port,) = ports(1)
    words = (*OURS, "collector", "run", "--data-dir", folder / "embedded", "--port", str(port))
    collector = Kept("embedded-collector", "collector", words, folder, port=port)
    return Side("embedded store", (f"http://127.0.0.1:{port}",), (collector,))


def _influxdb(folder: Path, program: str) -> Side:
    """InfluxDB with two collectors, of which an agent tries one after the other."""
    store_port, inner_port, *own = ports(4)
    place = folder / "influxdb"
    place.mkdir()
    config = influxd_1_config(place, f"127.0.0.1:{store_port}", f"127.0.0.1:{inner_port}")
    url = f"http://127.0.0.1:{store_port}"
    store = Kept("influxd", "store", (program, "-config", config), folder, port=store_port)
    collectors = []
    for number, port in enumerate(own, 1):
        file = folder / f"influxdb-collector-{number}.toml"
        file.write_text(
            f'[listen]\nport = {port}\n[store]\nkind = "influxdb"\ndata_dir = "{folder / file.stem}"\n'
            f'[store.influxdb]\nurl = "{url}"\ndatabase = "soak"\n'
        )
        words = (*OURS, "collector", "run", "--config", file)
        collectors.append(Kept(file.stem, "collector", words, folder, port=port))
    return Side("InfluxDB", tuple(f"http://127.0.0.1:{port}" for port in own), tuple(collectors), store, url)


def _add_agent(side: Side, folder: Path, name: str) -> None:
    spool = folder / f"{name}.db"
    (folder / f"{name}.toml").write_text(
        f'server = "{name}"\nstep_s = 1\nspool = "{spool}"\n[spool_bounds]\nkeep_after_ack_s = {KEEP_ALL_S}\n'
        f"[collector]\nurl = {json.dumps(side.urls)}\n"
        '[[sources]]\nuse = "simulated"\nboards = 2\n'
    )
    words = (*OURS, "agent", "run", "--config", folder / f"{name}.toml")
    side.agents += (Kept(name, "real agent", words, folder),)
    side.spools += (spool,)


def ports(number: int) -> list[int]:
    """Loopback ports that stay free over restarts: none of those that the system gives to clients."""
    found = list[int]()
    with ExitStack() as held:
        for port in random.SystemRandom().sample(range(10_000, 30_000), 500):
            trial = held.enter_context(socket.socket())
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == number:
                return found
    raise OSError("no free ports on 127.0.0.1 between 10000 and 30000")
