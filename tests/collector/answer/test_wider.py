"""Fleet and facility from a real store: the worked server of the definition, a spare one, and what is declared."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from collector.account.conftest import engine, meter, window, work
from joulefleet.grid import HOUR_NS
from joulefleet.window import EngineWindow, Window
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.answer.hours import added_up
from joulefleet_collector.answer.inventory import Stay
from joulefleet_collector.answer.overhead import Overhead, energy_j
from joulefleet_collector.answer.rates import Sites, SiteSeries
from joulefleet_collector.answer.series import Constant
from joulefleet_collector.answer.totals import Rules, usage_totals
from joulefleet_collector.answer.wider import WIDER_TAGS, is_wider, of_facility, stored, wider_of
from joulefleet_collector.api import UsageQuestion
from joulefleet_collector.sites import Places
from joulefleet_collector.store.embedded import EmbeddedStore
from joulefleet_collector.store.store import MINUTE_NS, Accounted, Question, Total
from joulefleet_collector.usage import usage_figures

BEGIN_NS = 1_790_000_000_000_000_000 // HOUR_NS * HOUR_NS
CHAT = {"pool": "chat", "site": "fra", "start_ns": BEGIN_NS}
FRA = Sites({"fra": SiteSeries(pue=Constant(1.2), price_per_kwh=Constant(0.36), currency="EUR")})


def t6(**changed: object) -> Window:
    """Four boards, of which s1 holds two, s2 one and nobody one; the server's input."""
    boards = [24_000, 24_600, 12_000, 4_200]
    gpus = [meter(f"gpu{place}", energy_j, idle_w=70) for place, energy_j in enumerate(boards)]
    whole = meter("psu", 96_000, kind="server", sensor_class="platform", idle_w=(18_000 + 4 * 4_200) / 60)
    engines = [
        engine("s1", ["gpu0", "gpu1"], [work("m1", requests_ok=100, output_tokens=30_000)]),
        engine("s2", ["gpu2"], [work("m2", requests_ok=7, output_tokens=3_000)]),
    ]
    return window([*gpus, whole], engines, **(CHAT | {"server": "n1"} | changed))


def spare(**changed: object) -> Window:
    """A server without engines: of its 6,600 J nothing is known to be idle power."""
    return window([meter("psu", 6_600, kind="server", sensor_class="platform")], **(CHAT | {"server": "n2"} | changed))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedStore]:
    with closing(EmbeddedStore(tmp_path, lambda: "e")) as opened:
        yield opened


class Answered(NamedTuple):
    """What was found at `fleet`."""

    hours: list[Total]
    about: dict[str, Any]
    warnings: list[dict[str, object]]


@pytest.fixture
def wide(store: EmbeddedStore) -> Callable[..., Answered]:
    """Writes windows and asks about them, by model; `where` filters."""

    def ask(*windows: Window, places: Places | None = None, until_ns: int = 0, **where: str) -> Answered:
        store.write([Accounted(one, one.encode(), account(one, Policy())) for one in windows], 1)
        asked = UsageQuestion(
            since_ns=BEGIN_NS,
            until_ns=BEGIN_NS + 2 * HOUR_NS,
            by=("model",),
            where={tag: (value,) for tag, value in where.items()},
        )
        by = ("boundary", "model", *WIDER_TAGS)
        time = {"since_ns": asked.since_ns, "until_ns": asked.until_ns}
        hours = store.ask(Question(kind="usage", step="hour", by=by, where=asked.where, **time))
        newest_ns = until_ns or max(one.end_ns for one in windows)
        wider = wider_of(store, asked, places or Places(sites=FRA), newest_ns)
        found = wider.attended(wider.lifted(hours))
        assert [one for one in found if one.tags["boundary"] != "fleet"] == hours
        return Answered([one for one in found if one.tags["boundary"] == "fleet"], wider.about, wider.warnings)

    return ask


def by_model(totals: list[Total]) -> dict[str, Total]:
    return {total.tags["model"]: total for total in added_up(totals, ("boundary", "model"), "none")}


def test_t6_from_window_to_facility(wide: Callable[..., Answered]) -> None:
    fleet = wide(t6())
    rows = by_model(fleet.hours)
    assert {model: energy_j(total.fields) for model, total in rows.items()} == {"m1": 74_455.0, "m2": 21_545.0}
    assert usage_figures(rows["m1"])["joules_per_output_token"] == pytest.approx(2.48183, abs=5e-6)
    m1 = by_model(of_facility(fleet.hours, Places(sites=FRA)))["m1"]
    assert usage_figures(m1)["joules_per_output_token"] == pytest.approx(2.9782, abs=5e-5)
    assert m1.fields["cost.EUR"] == pytest.approx(74_455 * 1.2 / 3_600_000 * 0.36)
    assert not fleet.warnings


def test_a_spare_server_is_paid_by_those_who_work_in_its_pool(wide: Callable[..., Answered]) -> None:
    fleet = wide(t6(), spare(), spare(server="n3", pool="rag"), spare(server="n4", site="ams"))
    assert {model: energy_j(total.fields) for model, total in by_model(fleet.hours).items()} == {
        "m1": 74_455.0 + 4_400.0,
        "m2": 21_545.0 + 2_200.0,
    }
    told = {(row["pool"], row["site"]): (row["shared_j"], row["unshared_j"]) for row in fleet.about["pools"]}
    assert told == {("chat", "fra"): (15_300.0, 0.0), ("chat", "ams"): (0.0, 6_600.0), ("rag", "fra"): (0.0, 6_600.0)}
    assert [one["code"] for one in fleet.warnings] == ["pool_without_engines"] * 2


def test_a_filter_changes_no_figure_of_what_it_leaves(wide: Callable[..., Answered]) -> None:
    overhead = Overhead(what="storage", watts=10.0, site="fra")
    places = Places(sites=FRA, overheads=(overhead,))
    windows = [t6(), spare(), t6(server="n9", pool="rag")]
    everything = {(total.tags["pool"], total.tags["model"]): total for total in wide(*windows, places=places).hours}
    one = wide(*windows, places=places, model="m1", pool="chat")
    assert [total.fields for total in one.hours] == [everything["chat", "m1"].fields]
    assert [row["pool"] for row in one.about["pools"]] == ["chat"]
    assert "network, storage" in str(one.about["leaves_out"])


def test_a_silent_server_of_the_inventory_lowers_the_coverage(wide: Callable[..., Answered]) -> None:
    stays = tuple(Stay(f"n{number}", "chat", 0, 2**63 - 1) for number in range(1, 11))
    windows = [t6(server=f"n{number}") for number in range(1, 9)]
    fleet = wide(*windows, spare(server="n9"), places=Places(sites=FRA, stays=stays), until_ns=BEGIN_NS + HOUR_NS // 60)
    assert usage_figures(by_model(fleet.hours)["m1"])["coverage"] == pytest.approx(0.9)
    (pool,) = fleet.about["inventory"]
    assert (pool["coverage"], pool["silent"]) == (0.9, ["n10"])
    assert [one["code"] for one in fleet.warnings] == ["silent_servers"]


def test_without_an_inventory_that_is_told(wide: Callable[..., Answered]) -> None:
    fleet = wide(t6())
    assert fleet.about["inventory"] is None
    assert "servers without an agent" in fleet.about["leaves_out"]


def test_each_member_of_a_replica_group_pays_for_its_own_pool(store: EmbeddedStore) -> None:
    """Prefill and decode in pools of their own: 100 J of the one are spare, and 30 J of the other."""

    def of(server: str, pool: str, joules: float, engines: Sequence[EngineWindow] = (), minute: int = 0) -> Window:
        at = {"pool": pool, "site": "fra", "start_ns": BEGIN_NS + minute * MINUTE_NS}
        psu = meter("psu", joules, kind="server", sensor_class="platform")
        return window([psu], engines, server=server, **at)

    def member(phase: str) -> EngineWindow:
        done = work("m", requests_ok=1, prompt_tokens=10, cached_tokens=0, output_tokens=10)
        return engine("e", works=[done], group="g", group_size=2, phase=phase)

    windows = [
        one
        for minute in range(60)
        for one in (
            of("x1", "prefill", 600.0, [member("prefill")], minute),
            of("x2", "decode", 900.0, [member("decode")], minute),
            of("x3", "prefill", 100.0, minute=minute),
            of("x4", "decode", 30.0, minute=minute),
        )
    ]
    store.write([Accounted(one, one.encode(), account(one, Policy())) for one in windows], 1)
    named = {"boundary": ("server", "fleet", "facility")}
    asked = UsageQuestion(since_ns=BEGIN_NS, until_ns=BEGIN_NS + HOUR_NS, by=("model",), where=named)
    found = usage_totals(store, asked, Rules(places=lambda: (Places(sites=FRA), ())))
    told = {total.tags["boundary"]: (energy_j(total.fields), total.fields["requests_ok"]) for total in found.totals}
    assert told == {
        "server": (90_000.0, 60.0),
        "fleet": (90_000.0 + 60 * 130.0, 60.0),
        "facility": (pytest.approx(1.2 * 97_800.0), 60.0),
    }


def test_the_wider_boundaries_are_asked_for_by_name_and_made_from_servers() -> None:
    def asked(*names: str) -> UsageQuestion:
        return UsageQuestion(since_ns=0, until_ns=1, where={"boundary": names} if names else {})

    assert [is_wider(asked(*names)) for names in ((), ("server",), ("fleet",), ("server", "facility"))] == [
        *(False, False, True, True)
    ]
    assert stored(("fleet", "facility", "compute")) == ("server", "compute")
