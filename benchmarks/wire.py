"""How many bytes a window of 60 s with its traces is on the wire: by way and form, alone and in batches of a backlog.

Two fleets are told: the server of `servers.py`, whose numbers are drawn by chance, and servers of `joulefleet simulate`
of several hardwares, read every second and cut by the agent's own cutter. HTTP heads and WebSocket frames are counted,
but for what a token adds and for what lies below: TLS, TCP and the answers.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from statistics import mean

from servers import Fleet
from ways import WAYS

from joulefleet.delivery import BATCH_PATH, JSON_TYPE, plain
from joulefleet.units import NS_PER_S
from joulefleet.window import Window
from joulefleet_agent.simulate.roster import roster
from joulefleet_agent.simulate.scenario import Scenario
from joulefleet_agent.simulate.stream import windows_of

BEGIN = datetime(2026, 1, 1, 12, tzinfo=UTC)
STEP_NS = 60 * NS_PER_S
BATCHES = (1, 10, 60)
"""Windows of a batch: what a live agent sends, and what one with a backlog does."""
Server = list[Window]
Cell = dict[str, float]


def of_servers(servers: int, windows: int) -> list[Server]:
    """The server of `servers.py`."""
    fleet = Fleet(servers, STEP_NS, int(BEGIN.timestamp()) * NS_PER_S)
    return [[fleet.window(server, number) for number in range(windows)] for server in range(servers)]


def of_simulate(servers: int, windows: int) -> list[Server]:
    """Servers of several kinds, each window from its readings, with a window more than is told, which ends the last."""
    scenario = Scenario(servers=servers, begin=BEGIN, days=(windows + 1) / (24 * 60), period_s=1)
    return [list(islice(windows_of(server, fast=False), windows)) for server in roster(scenario)]


def batches(server: Server, size: int, encoded: Callable[[Sequence[Window], int], bytes]) -> list[bytes]:
    """All windows of a server, so many in each batch."""
    return [encoded(server[first : first + size], first) for first in range(0, len(server), size)]


def as_msgpack(windows: Sequence[Window], batch_id: int) -> bytes:
    """As an agent does it."""
    return plain([window.encode() for window in windows], batch_id)


def as_json(windows: Sequence[Window], batch_id: int) -> bytes:
    """As `curl` would send it."""
    return b'{"id":%d,"windows":[%s]}' % (batch_id, b",".join(window.encode_json() for window in windows))


def json_post(batch: bytes) -> bytes:
    """A request in plain JSON."""
    head = f"POST {BATCH_PATH} HTTP/1.1\r\nHost: collector\r\nContent-Type: {JSON_TYPE}\r\n"
    return f"{head}Content-Length: {len(batch)}\r\n\r\n".encode() + batch


def each(messages: Iterable[bytes], size: int) -> float:
    """Bytes of one window."""
    return mean(len(message) for message in messages) / size


def measure(fleet: Sequence[Server], size: int) -> Cell:
    """Bytes of a window by way and form, in batches of this size."""
    of_json = [batch for server in fleet for batch in batches(server, size, as_json)]
    of_each = [batches(server, size, as_msgpack) for server in fleet]
    streams = [list(WAYS["stream"].messages(its)) for its in of_each]
    return {
        "JSON": each(of_json, size),
        "JSON, POST": each(map(json_post, of_json), size),
        "msgpack": each((batch for its in of_each for batch in its), size),
        "msgpack + zstd, POST": each((one for its in of_each for one in WAYS["post"].messages(its)), size),
        "msgpack + zstd, stream, first": each((its[0] for its in streams), size),
        "msgpack + zstd, stream, later": each((one for its in streams for one in its[1:]), size),
    }


def show(figures: dict[str, dict[str, Cell]]) -> None:
    """One table for each fleet."""
    for name, by_size in figures.items():
        print(f"{name:36}" + "".join(f"{f'{size} a batch':>14}" for size in by_size))
        for row in next(iter(by_size.values())):
            print(f"  {row:34}" + "".join(f"{cell[row]:14,.0f}" for cell in by_size.values()))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=6)
    parser.add_argument("--windows", type=int, default=120, help="of each server")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    asked = parser.parse_args()
    fleets = {"servers.py": of_servers, "simulate": of_simulate}
    made = {name: make(asked.servers, asked.windows) for name, make in fleets.items()}
    figures = {name: {str(size): measure(fleet, size) for size in BATCHES} for name, fleet in made.items()}
    show(figures)
    if asked.json:
        asked.json.write_text(json.dumps({"bytes_per_window": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
