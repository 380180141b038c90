"""Where the time of one window goes inside a collector, step by step, without network and without waiting.

Each step is measured over many windows in one thread. `by definition` is what a window costs that cannot be accounted
together with others: one whose boards are shared, whose meters are not covered, or that came as JSON. Beside the usual
server stand one whose engine serves four models, one whose two engines share all boards, and one with a lame board.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from servers import Fleet

from joulefleet.delivery import pack, unpack
from joulefleet.describe import WHOLE, Reservation
from joulefleet.reading import WorkKey
from joulefleet.units import NS_PER_S
from joulefleet.window import Window, decode
from joulefleet_collector.account.accounting import Accounting
from joulefleet_collector.account.numbers import told
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.skim import digest, skim
from joulefleet_collector.judge import judge
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import DAY_NS, Accounted

GROUP = 500
ALONE = 200
"""Windows that are accounted one by one."""
FIRST_NS = 20_700 * DAY_NS


def us_each(act: Callable[[Any], object], items: Sequence[Any]) -> float:
    """CPU microseconds for one of these."""
    began = time.thread_time()
    for item in items:
        act(item)
    return (time.thread_time() - began) / len(items) * 1e6


def groups(items: Sequence[Any]) -> list[Sequence[Any]]:
    """As many at a time as a busy collector stores."""
    return [items[first : first + GROUP] for first in range(0, len(items), GROUP)]


def measure(servers: int, windows: int) -> dict[str, float]:
    """Microseconds of a window by step."""
    fleet = Fleet(servers, 10 * NS_PER_S, FIRST_NS)
    made = [fleet.window(server, number) for number in range(windows) for server in range(servers)]
    bodies = [window.encode() for window in made]
    some, accounting = made[:ALONE], Accounting(Policy())
    skimmed = [one for one in map(skim, bodies) if one is not None]
    marked = [(digest(one), told(one)) for one in skimmed]
    figures = {
        "unpack": us_each(unpack, [pack([body]) for body in bodies]),
        "skim": us_each(skim, bodies),
        "digest": us_each(digest, skimmed),
        "figures": us_each(told, skimmed),
        "learn (once for each server)": us_each(lambda one: accounting.learn(*one), _firsts(marked, made, servers)),
        "account together": us_each(accounting.at_once, groups(marked)) / GROUP,
        "by definition: decode": us_each(decode, bodies),
        "by definition: judge": us_each(lambda window: judge(window, 0, 2**62), some),
        "by definition: account": us_each(accounting, _known(accounting, some)),
    }
    for name, other in OTHERS.items():
        figures |= _other(name, [other(window) for window in some])
    rows = accounting.at_once(marked)
    kept = [Accounted(one, body, its or []) for one, body, its in zip(made, bodies, rows, strict=True)]
    return figures | _store(groups(kept))


def _firsts(marked: Sequence[Any], made: Sequence[Any], servers: int) -> list[Any]:
    return [(mark, window) for (mark, _), window in zip(marked[:servers], made, strict=False)]


def four_models(window: Window) -> Window:
    """The server with an engine that serves four models, one of them to two tenants."""
    (engine,) = window.engines
    (work,) = engine.work
    keys = (*(WorkKey(f"model-{number}") for number in range(4)), WorkKey("model-0", tenant="other"))
    works = tuple(replace(work, key=key) for key in keys)
    return replace(window, engines=(replace(engine, work=works),))


def two_engines(window: Window) -> Window:
    """The server with two engines that share all boards by their tokens."""
    (only,) = window.engines
    halves = tuple(Reservation(each.meter, WHOLE // 2) for each in only.engine.devices)
    engines = (replace(only.engine, id=f"engine-{number}", devices=halves) for number in range(2))
    return replace(window, engines=tuple(replace(only, engine=engine, running_ns=None) for engine in engines))


def lame_board(window: Window) -> Window:
    """The server with a board of which half of the window is not known."""
    first, *others = window.meters
    return replace(window, meters=(replace(first, covered_ns=window.step_ns // 2), *others))


OTHERS = {"four models": four_models, "shared boards": two_engines, "a lame board": lame_board}


def _other(name: str, windows: Sequence[Window]) -> dict[str, float]:
    accounting = Accounting(Policy())
    skimmed = [one for one in map(skim, [window.encode() for window in windows]) if one is not None]
    marked = [(digest(one), told(one)) for one in skimmed]
    figures = {
        f"{name}: learn": us_each(lambda one: accounting.learn(*one), _marks(marked, windows)),
        f"{name}: account alone": us_each(accounting, _known(accounting, windows)),
    }
    if None not in accounting.at_once(marked):
        figures[f"{name}: account together"] = us_each(accounting.at_once, [marked]) / len(marked)
    return figures


def _known(accounting: Accounting, windows: Sequence[Window]) -> Sequence[Window]:
    """These windows, when their servers' declarations are no longer new."""
    for window in windows:
        accounting(window)
    return windows


def _marks(marked: Sequence[Any], windows: Sequence[Window]) -> list[Any]:
    return [(mark, window) for (mark, _), window in zip(marked, windows, strict=True)]


def _store(parts: Sequence[Sequence[Accounted]]) -> dict[str, float]:
    first, rest = parts[: len(parts) // 4], parts[len(parts) // 4 :]
    with tempfile.TemporaryDirectory() as folder, closing(EmbeddedStore(Path(folder), lambda: "")) as store:
        began = us_each(lambda part: store.write(part, 1), first) / GROUP
        then = us_each(lambda part: store.write(part, 1), rest) / GROUP
        return {"store, new servers": began, "store": then}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=2_000)
    parser.add_argument("--windows", type=int, default=12, help="of each server")
    parser.add_argument("--json", type=Path, default=None, help="file for the figures")
    asked = parser.parse_args()
    figures = measure(asked.servers, asked.windows)
    for name, value in figures.items():
        print(f"{name:34} {value:10.1f} us")
    if asked.json:
        asked.json.write_text(json.dumps({"us_per_window": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
