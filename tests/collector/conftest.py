"""Windows to send and a tiny accounting, so that the way through the collector is tested apart from the real one."""

from collections.abc import Callable
from typing import Any

import pytest

from joulefleet.describe import Engine, Meter
from joulefleet.reading import Counts, WorkKey
from joulefleet.units import NS_PER_S, j_to_uj, ns_to_s, uj_to_j
from joulefleet.window import EngineWindow, Losses, MeterWindow, Window, Work
from joulefleet_collector.rows import Row

START_NS = 1_790_000_000 * NS_PER_S - 1_790_000_000 * NS_PER_S % (24 * 3600 * NS_PER_S)
"""A midnight in 2026."""
METER = Meter(id="m0", kind="server", grade="counter", sensor_class="platform")
ENGINE = Engine(id="vllm@localhost:8000", software="vllm", version="1.0")


def make_window(
    server: str = "a", minute: int = 0, joules: float = 600.0, requests: int = 10, **changes: Any
) -> Window:
    """A good window of one server, so many minutes after START_NS; `changes` replace any field."""
    step_ns = changes.pop("step_ns", 60 * NS_PER_S)
    meter = MeterWindow(
        meter=METER, first_uj=5, energy_uj=j_to_uj(joules), last_uj=5 + j_to_uj(joules), covered_ns=step_ns
    )
    counts = Counts(requests_ok=requests, output_tokens=requests * 100)
    engine = EngineWindow(engine=ENGINE, covered_ns=step_ns, work=(Work(key=WorkKey("llama"), counts=counts),))
    fields: dict[str, Any] = {
        "server": server,
        "timeline": 1,
        "start_ns": START_NS + minute * 60 * NS_PER_S,
        "step_ns": step_ns,
        "pool": "p",
        "labels": {"rack": "r1"},
        "meters": (meter,),
        "engines": (engine,),
        "losses": Losses(),
    }
    return Window(**{**fields, **changes})


def tiny_account(window: Window) -> list[Row]:
    """All joules to the one model, at the boundary `server`; the agent's and one fact's row beside."""
    server = {
        "server": window.server,
        "pool": window.pool,
        "site": window.site,
        "simulated": str(window.simulated).lower(),
        "timeline": f"{window.timeline:08x}",
        "step_s": f"{ns_to_s(window.step_ns):g}",
        **window.labels,
    }
    joules = sum(uj_to_j(one.energy_uj) for one in window.meters)
    window_s = ns_to_s(window.step_ns)
    rows = [
        Row("ledger", window.start_ns, {**server, "boundary": "server"}, {"window_s": window_s, "metered_j": joules}),
        Row("agent", window.start_ns, server, {"windows": 1, "lost_windows": window.losses.windows}),
        Row("facts", window.start_ns, {**server, "fact": "driver", "value": "570"}, {"seen": 1}),
    ]
    for engine in window.engines:
        for work in engine.work:
            tags = {**server, "boundary": "server", "model": work.key.model, "software": engine.engine.software}
            fields: dict[str, float] = {"window_s": window_s, "paired_s": window_s, "active_j": joules}
            if work.counts.requests_ok is not None:
                fields |= {"requests_ok": work.counts.requests_ok, "requests_j": joules}
            if work.counts.output_tokens is not None:
                fields |= {"output_tokens": work.counts.output_tokens, "output_tokens_j": joules}
            rows.append(Row("usage", window.start_ns, tags, fields))
    return rows


@pytest.fixture
def start_ns() -> int:
    return START_NS


@pytest.fixture
def a_window() -> Callable[..., Window]:
    return make_window


@pytest.fixture
def account() -> Callable[[Window], list[Row]]:
    return tiny_account
