"""One board that two engines share, with figures worked out by hand.

550 W for 60 s are 33,000 J; at 90 W of idle power 5,400 J of it are idle, 27,600 J are not. Engine a reserves 40 % and
was busy for 30 s, engine b 60 % and for 15 s. So a gets 0.4 x 5,400 + 2/3 x 27,600 = 2,160 + 18,400 = 20,560 J, and b
gets 3,240 + 9,200 = 12,440 J.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from joulefleet.describe import Engine, Meter, Reservation
from joulefleet.reading import Counts, WorkKey
from joulefleet.units import NS_PER_S, j_to_uj, s_to_ns
from joulefleet.window import EngineWindow, MeterWindow, Window, Work
from joulefleet_collector.account.account import account
from joulefleet_collector.account.layout import layout_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.answer.totals import Rules
from joulefleet_collector.explain.asked import parse_explain
from joulefleet_collector.explain.explanation import explain
from joulefleet_collector.explain.scope import Wanted
from joulefleet_collector.explain.seen import Seen, seen_at, stage_of
from joulefleet_collector.sites import Places
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import Accounted

START_NS = 1_800_000_000 * NS_PER_S
NOW_NS = START_NS + 100_000 * NS_PER_S
STEP_NS = 60 * NS_PER_S
BOARD_UJ, A_UJ, B_UJ = j_to_uj(33_000), j_to_uj(20_560), j_to_uj(12_440)
BOARD = Meter(
    id="gpu0", kind="accelerator", grade="counter", sensor_class="onboard", device="uuid", hw_model="H100", driver="570"
)
TWIN = Meter(id="gpu0-again", kind="accelerator", grade="integrated", sensor_class="onboard", device="uuid")


def engine(name: str, share: float, busy_s: int, tokens: int, **changes: Any) -> EngineWindow:
    declared = Engine(
        id=name, software="vllm", version="0.10", devices=(Reservation(BOARD.id, round(share * 1_000_000)),)
    )
    counts = Counts(requests_ok=tokens // 10, output_tokens=tokens, busy_ns=s_to_ns(busy_s))
    return EngineWindow(
        engine=declared,
        **{"covered_ns": STEP_NS, "work": (Work(key=WorkKey(f"model-{name}"), counts=counts),)} | changes,
    )


def make_shared(minute: int = 0, server: str = "n1", board: dict[str, Any] | None = None, **changes: Any) -> Window:
    """The window so many minutes after the start of an hour; `board` and the rest replace what is in it."""
    first = j_to_uj(1_000) + minute * BOARD_UJ
    read = MeterWindow(
        meter=BOARD,
        first_uj=first,
        last_uj=first + BOARD_UJ,
        energy_uj=BOARD_UJ,
        covered_ns=STEP_NS,
        idle_mw=90_000,
        idle_learnt=True,
    )
    fields: dict[str, Any] = {
        "server": server,
        "timeline": 1,
        "start_ns": START_NS + minute * STEP_NS,
        "step_ns": STEP_NS,
        "meters": (msgspec.structs.replace(read, **board or {}), MeterWindow(meter=TWIN, covered_ns=STEP_NS)),
        "engines": (engine("a", 0.4, 30, 9_000), engine("b", 0.6, 15, 1_500)),
        "facts": {"agent": "0.1.0", "config": "c0ffee", "driver:gpu0": "570"},
    }
    return Window(**fields | changes)


WANTED = Wanted("accelerator", {"boundary": ("accelerator",), "model": ("model-a",)})


def look(window: Window, wanted: Wanted = WANTED) -> Seen | None:
    stage = stage_of(window, wanted, Policy(), layout_of)
    return None if stage is None else seen_at(stage, wanted)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        yield opened


@pytest.fixture
def put(store: EmbeddedStore) -> Callable[..., int]:
    """Keeps windows, accounted under the policy that everybody has."""
    return lambda *windows: store.write([Accounted(one, one.encode(), account(one, Policy())) for one in windows], 1)


@pytest.fixture
def told(store: EmbeddedStore) -> Callable[..., dict[str, Any]]:
    """An explanation as it comes over the wire; of all time, by options of the question and under a policy."""

    def of(
        policy: Policy = Policy(),  # noqa: B008 nobody changes it
        places: Places | None = None,
        **query: str,
    ) -> dict[str, Any]:
        asked = parse_explain([*({"since": "all"} | query).items()], NOW_NS)
        rules = Rules(policy) if places is None else Rules(policy, lambda: (places, ()))
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(explain(store, rules, asked, NOW_NS)))
        return plain

    return of


@pytest.fixture
def shared() -> Callable[..., Window]:
    return make_shared


@pytest.fixture
def an_engine() -> Callable[..., EngineWindow]:
    return engine


@pytest.fixture
def wanted() -> Wanted:
    """Model a, at the boundary of boards."""
    return WANTED


@pytest.fixture
def see() -> Callable[..., Seen | None]:
    """A window as it was accounted, at the boundary and of the model that are wanted."""
    return look
