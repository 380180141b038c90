"""Sums split on their way from a real store to an answer."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from joulefleet.grid import HOUR_NS
from joulefleet.reading import Counts, WorkKey
from joulefleet.window import EngineWindow, Window, Work
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.answer.totals import Rules, usage_totals
from joulefleet_collector.api import UsageQuestion
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import MINUTE_NS, Accounted

TENANTS = {
    "x": Counts(requests_ok=3, prompt_tokens=40, cached_tokens=9, output_tokens=100),
    "y": Counts(requests_ok=1, prompt_tokens=500, cached_tokens=0, output_tokens=7),
}


@pytest.fixture
def store(tmp_path: Path, a_window: Callable[..., Window]) -> Iterator[EmbeddedStore]:
    def shared(minute: int, joules: float) -> Window:
        """A window of two tenants."""
        window = a_window("a", minute, joules)
        engine: EngineWindow = window.engines[0]
        work = tuple(Work(key=WorkKey("llama", tenant=name), counts=counts) for name, counts in TENANTS.items())
        return msgspec.structs.replace(window, engines=(msgspec.structs.replace(engine, work=work),))

    windows = [shared(59, 600.0), shared(60, 301.0)]
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        opened.write([Accounted(one, one.encode(), account(one, Policy())) for one in windows], 1)
        yield opened


def question(start_ns: int, **asked: object) -> UsageQuestion:
    return msgspec.convert(
        {"since_ns": start_ns + 59 * MINUTE_NS, "until_ns": start_ns + 61 * MINUTE_NS, **asked}, UsageQuestion
    )


@pytest.mark.parametrize("tag", ["tenant", "phase"])
@pytest.mark.parametrize("step", ["none", "hour", "day"])
def test_what_is_split_adds_up_to_the_undivided_sum(store: EmbeddedStore, start_ns: int, tag: str, step: str) -> None:
    _, undivided = usage_totals(store, question(start_ns, step=step), Rules())
    _, divided = usage_totals(store, question(start_ns, step=step, by=(tag,)), Rules())
    assert len(divided) > len(undivided)
    for whole in undivided:
        for field in ("active_j", "idle_j", "by_exclusive_j", "output_tokens"):
            parts = [one.fields.get(field, 0.0) for one in divided if one.start_ns == whole.start_ns]
            assert sum(parts) == pytest.approx(whole.fields[field], abs=1e-9)


def test_what_is_split_is_of_whole_hours_and_the_question_says_so(store: EmbeddedStore, start_ns: int) -> None:
    asked, _ = usage_totals(store, question(start_ns, by=("tenant",)), Rules())
    assert (asked.since_ns, asked.until_ns) == (start_ns, start_ns + 2 * HOUR_NS)
    asked, _ = usage_totals(store, question(start_ns), Rules())
    assert (asked.since_ns, asked.until_ns) == (start_ns + 59 * MINUTE_NS, start_ns + 61 * MINUTE_NS)


def test_a_filter_names_a_tenant_without_keeping_tenants_apart(store: EmbeddedStore, start_ns: int) -> None:
    _, (total,) = usage_totals(store, question(start_ns, where={"tenant": ("y",)}), Rules())
    assert total.fields["output_tokens"] == 14
    assert total.tags == {"boundary": "server", "simulated": "false"}
