"""Sums split on their way from a real store to an answer."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from joulefleet.grid import HOUR_NS
from joulefleet.reading import Counts, WorkKey
from joulefleet.window import EngineWindow, Window, Work
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.answer.rates import Sites, SiteSeries
from joulefleet_collector.answer.series import Constant
from joulefleet_collector.answer.totals import Rules, usage_totals
from joulefleet_collector.api import UsageQuestion
from joulefleet_collector.sites import Places
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import DAY_NS, MINUTE_NS, Accounted, Question, Store, Total

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
    undivided = usage_totals(store, question(start_ns, step=step), Rules()).totals
    divided = usage_totals(store, question(start_ns, step=step, by=(tag,)), Rules()).totals
    assert len(divided) > len(undivided)
    for whole in undivided:
        for field in ("active_j", "idle_j", "by_exclusive_j", "output_tokens"):
            parts = [one.fields.get(field, 0.0) for one in divided if one.start_ns == whole.start_ns]
            assert sum(parts) == pytest.approx(whole.fields[field], abs=1e-9)


class Watched:
    """A store of which is known for how long a time every server's hours were asked at once."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._store = store
        self.spans_ns: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def ask(self, asked: Question) -> list[Total]:
        """The store's own answer."""
        if "server" in asked.by:
            self.spans_ns.append(asked.until_ns - asked.since_ns)
        return self._store.ask(asked)


@pytest.mark.parametrize("boundary", ["server", "facility"])
@pytest.mark.parametrize("since_ns", [0, None])
def test_hours_of_all_servers_are_read_a_day_at_a_time(
    store: EmbeddedStore, start_ns: int, a_window: Callable[..., Window], boundary: str, since_ns: int | None
) -> None:
    later = [a_window("a", 60 * hour, 100.0) for hour in (30, 31, 70)]
    store.write([Accounted(one, one.encode(), account(one, Policy())) for one in later], 1)
    watched = Watched(store)
    time_ns = {"since_ns": start_ns if since_ns is None else since_ns, "until_ns": start_ns + 71 * HOUR_NS}
    rules = Rules(places=lambda: (Places(sites=Sites({"": SiteSeries(pue=Constant(2.0))})), ()))
    asked = {**time_ns, "where": {"boundary": (boundary,)}}
    (whole,) = usage_totals(store, question(start_ns, **asked), rules).totals
    divided = usage_totals(cast("Store", watched), question(start_ns, **asked, by=("tenant",)), rules).totals
    assert {one.tags["tenant"] for one in divided} == {"", "x", "y"}
    assert sum(one.fields["active_j"] for one in divided) == pytest.approx(whole.fields["active_j"], abs=1e-6)
    hours_of_usage = watched.spans_ns if boundary == "server" else sorted(watched.spans_ns)[:-1]
    assert len(hours_of_usage) > 3 and max(hours_of_usage) <= DAY_NS


def test_what_is_split_is_of_whole_hours_and_the_question_says_so(store: EmbeddedStore, start_ns: int) -> None:
    asked = usage_totals(store, question(start_ns, by=("tenant",)), Rules()).asked
    assert (asked.since_ns, asked.until_ns) == (start_ns, start_ns + 2 * HOUR_NS)
    asked = usage_totals(store, question(start_ns), Rules()).asked
    assert (asked.since_ns, asked.until_ns) == (start_ns + 59 * MINUTE_NS, start_ns + 61 * MINUTE_NS)


def test_a_filter_names_a_tenant_without_keeping_tenants_apart(store: EmbeddedStore, start_ns: int) -> None:
    (total,) = usage_totals(store, question(start_ns, where={"tenant": ("y",)}), Rules()).totals
    assert total.fields["output_tokens"] == 14
    assert total.tags == {"boundary": "server", "simulated": "false"}


@pytest.fixture
def pair(tmp_path: Path, a_window: Callable[..., Window]) -> Iterator[EmbeddedStore]:
    """Two servers that answer each request together, of which one counts; and one by itself."""

    def member(server: str, minute: int, joules: float, *, counts: bool) -> Window:
        window = a_window(server, minute, joules)
        (read,) = window.engines
        engine = msgspec.structs.replace(read.engine, group="tp", group_size=2)
        work = read.work if counts else (Work(key=WorkKey("")),)
        return msgspec.structs.replace(window, engines=(msgspec.structs.replace(read, engine=engine, work=work),))

    windows = [
        *(member("head", minute, 600.0, counts=True) for minute in range(180)),
        *(member("tail", minute, 400.0, counts=False) for minute in (*range(60), *range(120, 180))),
        *(a_window("alone", minute, 100.0) for minute in range(180)),
    ]
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        opened.write([Accounted(one, one.encode(), account(one, Policy())) for one in windows], 1)
        yield opened


def of_hours(start_ns: int, **asked: object) -> UsageQuestion:
    return question(start_ns, **{"since_ns": start_ns, "until_ns": start_ns + 3 * HOUR_NS, "step": "hour", **asked})


def test_a_group_over_two_servers_is_joined_and_an_hour_without_one_of_them_is_refused(
    pair: EmbeddedStore, start_ns: int
) -> None:
    totals = usage_totals(pair, of_hours(start_ns, by=("group",)), Rules()).totals
    told = [(one.tags["group"], one.fields["paired_s"], one.fields["active_j"]) for one in totals]
    together = [one for one in told if one[0] == "tp"]
    assert together == [("tp", 3600.0, 60_000.0), ("tp", 0.0, 0.0), ("tp", 3600.0, 60_000.0)]
    assert [one for one in told if not one[0]] == [("", 3600.0, 6_000.0)] * 3


@pytest.mark.parametrize(
    ("asked", "joules"),
    [
        ({"where": {"group": ("tp",)}}, 120_000),
        ({"where": {"server": ("tail",)}}, 120_000),
        ({"where": {"server": ("alone",)}}, 18_000),
        ({"where": {"model": ("llama",)}}, 138_000),
        ({"by": ("tenant",)}, 138_000),
        ({"by": ("server", "phase")}, 138_000),
    ],
)
def test_groups_are_joined_before_anything_is_filtered_or_split(
    pair: EmbeddedStore, start_ns: int, asked: dict[str, object], joules: float
) -> None:
    totals = usage_totals(pair, of_hours(start_ns, **asked), Rules()).totals
    assert sum(one.fields["active_j"] for one in totals) == pytest.approx(joules, abs=1e-6)


def test_by_the_minute_members_stand_for_themselves(pair: EmbeddedStore, start_ns: int) -> None:
    totals = usage_totals(pair, of_hours(start_ns, step="minute", by=("server",)), Rules()).totals
    assert {one.tags["server"] for one in totals} == {"head", "tail", "alone"}
    assert len(totals) == 180 + 120 + 180


def test_a_facility_is_its_servers_their_pool_and_its_pue_with_what_it_costs(
    store: EmbeddedStore, start_ns: int, a_window: Callable[..., Window]
) -> None:
    spare = [a_window("spare", minute, 120.0, engines=()) for minute in (59, 60)]
    store.write([Accounted(one, one.encode(), account(one, Policy())) for one in spare], 1)
    site = SiteSeries(pue=Constant(1.5), price_per_kwh=Constant(0.36), currency="EUR")
    rules = Rules(places=lambda: (Places(sites=Sites({"": site})), ()))
    named = ("server", "fleet", "facility")
    found = usage_totals(store, question(start_ns, where={"boundary": named}), rules)
    joules = {one.tags["boundary"]: one.fields["active_j"] + one.fields["idle_j"] for one in found.totals}
    assert joules == pytest.approx({"server": 901.0, "fleet": 901.0 + 240.0, "facility": 1.5 * 1141.0})
    (facility,) = [one for one in found.totals if one.tags["boundary"] == "facility"]
    assert facility.fields["cost.EUR"] == pytest.approx(1.5 * 1141.0 * 0.36 / 3.6e6)
    assert found.about["pools"]


def test_idle_energy_of_a_pool_that_counted_tokens_pay_for_is_the_same_however_engines_are_told_apart(
    store: EmbeddedStore, start_ns: int, a_window: Callable[..., Window]
) -> None:
    """One engine counts tokens, another of the same model does not; they hold as much, and use 601 and 5,000 J."""
    other = a_window("b", 59, 5_000.0)
    engine = msgspec.structs.replace(other.engines[0].engine, software="batch")
    work = (Work(key=WorkKey("llama"), counts=Counts(requests_ok=1)),)
    read = EngineWindow(engine=engine, work=work, covered_ns=other.step_ns)
    windows = [msgspec.structs.replace(other, engines=(read,)), a_window("spare", 59, 120.0, engines=())]
    store.write([Accounted(one, one.encode(), account(one, Policy())) for one in windows], 1)

    def paid_j(*by: str) -> float:
        asked = question(start_ns, where={"boundary": ("fleet",)}, by=by)
        return sum(one.fields.get("output_tokens_j", 0.0) for one in usage_totals(store, asked, Rules()).totals)

    assert paid_j() == paid_j("software") == paid_j("server", "tenant") == pytest.approx(901.0 + 120.0 / 2)


def test_what_counted_requests_cost_a_tenant_is_the_same_however_engines_are_told_apart(
    tmp_path: Path, start_ns: int, a_window: Callable[..., Window]
) -> None:
    """A gateway tells the tenants; one engine behind it counts tokens of both phases, another nothing but output."""

    def told(server: str, joules: float, works: dict[str, Counts], **declared: object) -> Window:
        window = a_window(server, 0, joules)
        engine = msgspec.structs.replace(window.engines[0].engine, **declared)
        work = tuple(Work(key=WorkKey("llama", tenant=name), counts=counts) for name, counts in works.items())
        read = EngineWindow(engine=engine, work=work, covered_ns=window.step_ns)
        return msgspec.structs.replace(window, engines=(read,))

    both = Counts(requests_ok=4, prompt_tokens=5_000, cached_tokens=9, output_tokens=107)
    windows = [
        told("one", 1_000.0, {"": both}),
        told("two", 500.0, {"": Counts(output_tokens=300)}, software="batch"),
        told("gw", 0.0, TENANTS, software="gw", front=True, devices=()),
    ]
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        opened.write([Accounted(one, one.encode(), account(one, Policy())) for one in windows], 1)

        def paid_j(*by: str) -> float:
            asked = question(start_ns, since_ns=start_ns, by=("tenant", *by))
            found = usage_totals(opened, asked, Rules()).totals
            return sum(one.fields.get("requests_j", 0.0) for one in found if one.tags["tenant"] == "x")

        assert paid_j() == pytest.approx(paid_j("server"), abs=2e-6) != 0


def test_tenants_of_a_facility_add_up_to_it(store: EmbeddedStore, start_ns: int) -> None:
    site = SiteSeries(pue=Constant(1.25))
    rules = Rules(places=lambda: (Places(sites=Sites({"": site})), ()))
    (whole,) = usage_totals(store, question(start_ns, where={"boundary": ("facility",)}), rules).totals
    parts = usage_totals(store, question(start_ns, by=("tenant",), where={"boundary": ("facility",)}), rules).totals
    assert len(parts) == 2
    for field in ("active_j", "idle_j", "output_tokens"):
        assert sum(one.fields[field] for one in parts) == pytest.approx(whole.fields[field], abs=1e-6)


@pytest.mark.parametrize("by", [("tenant",), ("phase",), ("tenant", "phase")])
@pytest.mark.parametrize("boundary", ["server", "facility"])
def test_time_and_requests_of_all_tenants_and_phases_are_counted_once(
    store: EmbeddedStore, start_ns: int, by: tuple[str, ...], boundary: str
) -> None:
    rules = Rules(places=lambda: (Places(sites=Sites({"": SiteSeries(pue=Constant(1.25))})), ()))
    where = {"boundary": (boundary,)}
    (whole,) = usage_totals(store, question(start_ns, where=where), rules).totals
    found = usage_totals(store, question(start_ns, by=by, where=where), rules)
    assert len(found.totals) > 1
    (counted,) = found.undivided
    assert counted.tags == whole.tags
    for field in ("window_s", "paired_s", "requests_ok"):
        assert counted.fields[field] == pytest.approx(whole.fields[field])


def test_what_is_counted_beside_one_tenant_is_of_that_tenant(store: EmbeddedStore, start_ns: int) -> None:
    found = usage_totals(store, question(start_ns, where={"tenant": ("x",), "boundary": ("server",)}), Rules())
    assert [one.fields["output_tokens"] for one in found.undivided] == [200]
