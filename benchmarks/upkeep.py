"""What looking after the embedded store costs: letting go of old windows, space, copies, tables.

Fills a store as a collector does, then measures each step alone; writers wait while a part is pruned, so that the
longest part is what a write may have to wait. Writes a table and, if asked, a JSON file.
"""

import argparse
import json
import platform
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from servers import PATTERNS, Fleet

from joulefleet.units import NS_PER_S, bytes_to_mb
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.rows import Row
from joulefleet_collector.service import under
from joulefleet_collector.store.backup import back_up
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.export import export
from joulefleet_collector.store.info import inspect
from joulefleet_collector.store.listing import Wanted
from joulefleet_collector.store.retention import Keep, Pruned
from joulefleet_collector.store.store import DAY_NS, Accounted

STEP_NS = 60 * NS_PER_S
FIRST_NS = 20_700 * DAY_NS
Figures = dict[str, float]


def fill(store: EmbeddedStore, servers: int, minutes: int) -> None:
    """Windows with the rows of their like; a day later one more makes all of them old enough to go."""
    fleet, account = Fleet(servers, STEP_NS, FIRST_NS), under(Policy())
    shapes: dict[int, list[Row]] = {}
    for number in [*range(minutes), minutes + 24 * 60]:
        several = []
        for server in range(servers if number < minutes else 1):
            window = fleet.window(server, number)
            pattern = (server * 31 + number) % PATTERNS
            rows = shapes.get(pattern) or shapes.setdefault(pattern, account(window))
            own = {"server": window.server, "timeline": f"{window.timeline:08x}"}
            kept = [Row(row.kind, window.start_ns, row.tags | own, row.fields) for row in rows]
            several.append(Accounted(window, window.encode(), kept))
        store.write(several, window.end_ns)
    store.settle()


def timed(act: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def prune(store: EmbeddedStore, keep: Keep) -> tuple[list[float], list[Pruned]]:
    """Seconds of each part, and what it removed."""
    took_s: list[float] = []
    parts: list[Pruned] = []
    while not parts or parts[-1].more:
        took_s.append(timed(lambda: parts.append(store.prune(keep, 2**62))))
    return took_s, parts


def measure(folder: Path, servers: int, minutes: int) -> Figures:
    """All figures, in the order in which they were taken."""
    figures: Figures = {"windows": servers * minutes}
    with closing(EmbeddedStore(folder, lambda: "benchmark")) as store:
        fill(store, servers, minutes)
        figures["file, MB"] = bytes_to_mb(store.path.stat().st_size)
        figures["info, s"] = timed(lambda: inspect(store.path))
        figures["backup and check, s"] = timed(lambda: back_up(store.path, folder / "copy", lambda done, total: None))
        wanted = Wanted("usage", "minute", 0, 2**62)
        rows = 0

        def write_csv() -> None:
            nonlocal rows
            rows = export(store.path, wanted, "csv", folder / "usage.csv", lambda done: None)

        figures["export CSV, us a row"] = timed(write_csv) / max(rows, 1) * 1e6
        of_windows_s, parts = prune(store, Keep(windows_ns=DAY_NS // 2))
        figures["prune, us a window"] = sum(of_windows_s) / max(sum(part.windows for part in parts), 1) * 1e6
        of_minutes_s, more = prune(store, Keep(windows_ns=DAY_NS // 2, minutes_ns=DAY_NS // 2))
        figures["prune, us a minute row"] = sum(of_minutes_s) / max(sum(part.minute_rows for part in more), 1) * 1e6
        figures["prune, longest part, ms"] = max(of_windows_s + of_minutes_s) * 1e3
        figures["given back, MB"] = bytes_to_mb(sum(part.given_back_bytes for part in parts + more))
        figures["compact, s"] = timed(store.compact)
        figures["file then, MB"] = bytes_to_mb(store.path.stat().st_size)
    return figures


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=500)
    parser.add_argument("--minutes", type=int, default=100, help="windows of each server")
    parser.add_argument("--data-dir", default=None, help="folder on the disk to be measured")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.data_dir) as folder:
        figures = measure(Path(folder), asked.servers, asked.minutes)
    for name, value in figures.items():
        print(f"{name:28} {value:>12.2f}")
    if asked.json:
        machine = {
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "machine": platform.platform(),
        }
        asked.json.write_text(json.dumps({**machine, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
