"""How fast a store answers what a fleet is asked, what a row takes in it, and what writing costs.

The embedded store is filled with a simulated fleet (`seeding.py` says with what) and kept under --data-dir for the next
run. Questions go through the store and once through `GET /v1/usage`, which also looks at ledger, agents and overlaps.
`cold` is a new connection to a file of which nothing is in memory. With `influxd` 1.x on PATH the same questions go to
InfluxDB, with its sums made, over fewer servers: its sums over the fleet are as many rows as those of a large one.
"""

import argparse
import gc
import json
import os
import platform
import secrets
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import msgspec
from seeding import Seed, told

from collector import Collector
from joulefleet.grid import rfc3339
from joulefleet.units import bytes_to_mb
from joulefleet_collector.rows import KINDS, Row
from joulefleet_collector.store import schema
from joulefleet_collector.store.embedded import FILE_NAME, EmbeddedStore
from joulefleet_collector.store.freshness import TOKEN_BITS, Marks
from joulefleet_collector.store.influx_config import InfluxConfig
from joulefleet_collector.store.influx_wire import Wire
from joulefleet_collector.store.influxdb import InfluxStore
from joulefleet_collector.store.lines import lines
from joulefleet_collector.store.store import DAY_NS, Question, Store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fixtures.services import influxd_1, running_influxd_1

TIMES = 5
FACE = ("boundary", "simulated")
"""Tags by which `GET /v1/usage` always keeps sums apart."""
HOURLY = "all by model and hour"
J_PER_TOKEN = ("output_tokens_j", "output_tokens", "paired_s", "window_s")
"""What joules per token, and whether they can be defended, are made of."""
Table = dict[str, dict[str, float]]


def questions(seed: Seed) -> dict[str, Question]:
    """All questions by name; `GET /v1/usage` always asks for all fields."""
    whole = {"kind": "usage", "since_ns": seed.first_ns, "until_ns": seed.end_ns}
    week = {**whole, "since_ns": max(seed.first_ns, seed.end_ns - 7 * DAY_NS)}
    day = {**whole, "since_ns": seed.last_day_ns}
    hourly = Question(step="hour", by=("model", *FACE), **whole)
    return {
        f"J/token by model and hour, {seed.days} days": msgspec.structs.replace(hourly, fields=J_PER_TOKEN),
        f"{HOURLY}, {seed.days} days": hourly,
        f"{HOURLY}, 7 days": Question(step="hour", by=("model", *FACE), **week),
        f"by model, {seed.days} days": Question(by=("model", *FACE), **whole),
        f"by server, {seed.days} days": Question(by=("server", *FACE), **whole),
        "one server's day by minute": Question(step="minute", by=FACE, where={"server": (seed.server,)}, **day),
    }


def ms(act: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds that it takes, of the clock and of this process' CPU."""
    gc.collect()
    began, began_cpu = time.perf_counter(), time.process_time()
    act()
    return (time.perf_counter() - began) * 1e3, (time.process_time() - began_cpu) * 1e3


def warm(act: Callable[[], object]) -> dict[str, float]:
    """The median of several goes."""
    took = [ms(act) for _ in range(TIMES)]
    return {"warm ms": statistics.median(one[0] for one in took), "CPU ms": statistics.median(one[1] for one in took)}


def filled(folder: Path, seed: Seed) -> dict[str, Table]:
    """Fill the store: what that took, and what rows take as the store itself left them."""
    spent_s, windows = 0.0, 0
    with closing(EmbeddedStore(folder, lambda: "benchmark")) as store:
        for number, accounted in enumerate((*seed.hours(0), *seed.minutes(0))):
            told("writing windows of all servers", number, 84)
            began_s = time.process_time()
            store.write(accounted, accounted[0].window.end_ns)
            spent_s, windows = spent_s + time.process_time() - began_s, windows + len(accounted)
        began_s = time.process_time()
        store.settle()
        spent_s += time.process_time() - began_s
    of_rows = sizes(folder / FILE_NAME)
    cost = {"windows": windows, "CPU us a window": spent_s / windows * 1e6}
    cost["CPU us a row of sums"] = spent_s / of_rows["all"]["rows"] * 1e6
    with closing(sqlite3.connect(folder / FILE_NAME)) as db, db:
        seed.copy(db)
    return {"embedded, writing": {"write": cost}, "embedded, rows of sums as written": of_rows}


def sizes(path: Path) -> Table:
    """Bytes of a row of sums by table, with everything that its pages hold, and of all together."""
    found: Table = {}
    with closing(sqlite3.connect(path)) as db:
        for _, _, name in schema.tables():
            rows = db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            size = db.execute("SELECT sum(pgsize) FROM dbstat WHERE name = ?", (name,)).fetchone()[0]
            found[name] = {"rows": rows, "MB": bytes_to_mb(size), "bytes a row": size / max(rows, 1)}
    rows, whole_mb = (sum(one[what] for one in found.values()) for what in ("rows", "MB"))
    return found | {"all": {"rows": rows, "MB": whole_mb, "bytes a row": whole_mb / rows * 1e6}}


def forget(path: Path) -> None:
    """Have the system let go of what it holds of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def asks_embedded(folder: Path, seed: Seed) -> Table:
    """Milliseconds of every question."""
    found: Table = {}
    for name, question in questions(seed).items():
        with closing(EmbeddedStore(folder, lambda: "")) as store:
            forget(store.path)
            found[name] = {"cold ms": ms(lambda s=store, q=question: s.ask(q))[0]}  # type: ignore[misc]  # now, not later
            found[name] |= {"lines": len(store.ask(question)), **warm(lambda s=store, q=question: s.ask(q))}  # type: ignore[misc]  # as above
    with closing(EmbeddedStore(folder, lambda: "")) as store:
        found["latest row of every agent"] = warm(lambda: store.latest("agent"))
    return found


def asks_http(folder: Path, seed: Seed) -> Table:
    """The same through a collector, as a person waits for it."""
    collector, found = Collector(folder, 1), Table()
    try:
        for name, question in list(questions(seed).items())[1:]:
            by = [tag for tag in question.by if tag not in FACE]
            where = [(tag, value) for tag, values in question.where.items() for value in values]
            asked = [("since", rfc3339(question.since_ns)), ("until", rfc3339(question.until_ns)), *where]
            asked += [("by", ",".join(by)), ("step", question.step)]
            url = f"http://{collector.host}:{collector.port}/v1/usage?{urlencode(asked)}"
            body, cpu_s = urlopen(url).read(), collector.cpu_s()
            took = statistics.median(ms(lambda url=url: urlopen(url).read())[0] for _ in range(TIMES))  # type: ignore[misc]  # now, not later
            cpu_ms = (collector.cpu_s() - cpu_s) / TIMES * 1e3
            found[name] = {
                "rows": len(json.loads(body)["rows"]),
                "MB": bytes_to_mb(len(body)),
                "warm ms": took,
                "CPU ms": cpu_ms,
            }
    finally:
        collector.end()
    return found


@contextmanager
def on_influxdb(program: str, folder: Path, end_ns: int) -> Iterator[InfluxStore]:
    """A store on an InfluxDB of its own."""
    with running_influxd_1(program, folder) as server:
        wire = Wire(InfluxConfig(url=server.url, database="joulefleet"))
        token = lambda: secrets.randbits(TOKEN_BITS)  # noqa: E731 short
        with closing(InfluxStore(wire, folder, lambda: "benchmark", token, lambda: end_ns)) as store:
            yield store


def influxdb(program: str, seed: Seed) -> tuple[Table, Table]:
    """What filling it took, and milliseconds of every question."""
    with tempfile.TemporaryDirectory() as name, on_influxdb(program, Path(name), seed.end_ns) as store:
        rows, began_s, whole = 0, time.perf_counter(), 24 * (seed.days - 1 + 60)
        for number, accounted in enumerate(seed.writes()):
            told("writing rows to InfluxDB", number, whole)
            rows += sum(len(one.rows) for one in accounted)
            store.write(accounted, 0)
        write_s, began_s = time.perf_counter() - began_s, time.perf_counter()
        told("making its sums", 0, 1)
        store.roll_up(store.roll_up(Marks()))
        cost = {"rows": rows, "s": write_s, "us a row": write_s / rows * 1e6, "sums s": time.perf_counter() - began_s}
        return {"write": cost}, {name: asked(store, question) for name, question in questions(seed).items()}


def asked(store: Store, question: Question) -> dict[str, float]:
    """Milliseconds of a question."""
    return {"lines": len(store.ask(question)), **warm(lambda: store.ask(question))}


def line_protocol(seed: Seed) -> Table:
    """CPU microseconds of writing a row as a line, by kind; its tags were seen before."""
    first, found = next(seed.writes()), Table()
    rows = [row for one in first for row in one.rows]
    for kind in [*KINDS, "all"]:
        some = [row for row in rows if kind in (row.kind, "all")] or [Row(kind, 0, {}, {"x": 1.0})][:0]
        if not some:
            continue
        several = (some * (20_000 // len(some) + 1))[:20_000]
        lines(several)
        took = min(ms(lambda several=several: lines(several))[1] for _ in range(TIMES))  # type: ignore[misc]  # now, not later
        fields = statistics.mean(len(row.fields) for row in some)
        found[kind] = {"fields": fields, "CPU us a row": took / len(several) * 1e3}
    return found


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Table]:
    """All tables."""
    seed, tables, kept = Seed(options.servers, options.days), dict[str, Table](), folder / "filled.json"
    if not kept.exists():
        kept.write_text(json.dumps(filled(folder, seed)))
    tables |= json.loads(kept.read_text())
    tables["embedded, file"] = {"file": {"MB": bytes_to_mb((folder / FILE_NAME).stat().st_size)}}
    tables["embedded, questions"] = asks_embedded(folder, seed)
    tables["embedded, by GET /v1/usage"] = asks_http(folder, seed)
    tables["line protocol"] = line_protocol(seed)
    if (program := influxd_1()) and options.influx_servers:
        few = Seed(options.influx_servers, options.days)
        filling, answers = influxdb(program, few)
        tables["InfluxDB 1.x, filling"], tables["InfluxDB 1.x, questions"] = filling, answers
    return tables


def show(tables: dict[str, Table]) -> None:
    """Print all."""
    for title, table in tables.items():
        print(f"\n{title}")
        for name, figures in table.items():
            said = "  ".join(f"{what} {value:,.6g}" for what, value in figures.items())
            print(f"  {name:32} {said}")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=1_000)
    parser.add_argument("--days", type=int, default=30, help="the last of them by minute")
    parser.add_argument("--influx-servers", type=int, default=20, help="servers on InfluxDB; 0 for none")
    parser.add_argument("--data-dir", type=Path, default=None, help="where the store is kept for the next run")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    options = parsed()
    folder = options.data_dir and options.data_dir / f"{options.servers}x{options.days}-schema{schema.VERSION}"
    with tempfile.TemporaryDirectory() as passing:
        tables = measure(options, folder or Path(passing))
    print(f"{options.servers} servers, {options.days} days; SQLite {sqlite3.sqlite_version}")
    show(tables)
    if options.json:
        machine = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "cores": os.cpu_count()}
        told_of = {"servers": options.servers, "days": options.days, "influx_servers": options.influx_servers}
        options.json.write_text(json.dumps({"machine": machine, **told_of, "tables": tables}, indent=1) + "\n")


if __name__ == "__main__":
    main()
