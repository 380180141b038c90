"""How much of a pool reported, and what is told of its rest."""

import pytest

from joulefleet.grid import HOUR_NS
from joulefleet_collector.answer.fleet import Place, PoolHour
from joulefleet_collector.answer.hours import added_up
from joulefleet_collector.answer.inventory import Stay
from joulefleet_collector.answer.overhead import Overhead
from joulefleet_collector.answer.pools import Span, attendance, attended, inventory_table, leaves_out, pool_table
from joulefleet_collector.store.store import Step, Total
from joulefleet_collector.usage import usage_figures

BEGIN_NS = 1_790_000_000_000_000_000 // (24 * HOUR_NS) * 24 * HOUR_NS
ALWAYS = (0, 2**63 - 1)


def at(hour: int) -> int:
    return BEGIN_NS + hour * HOUR_NS


def ledger(server: str, hour: int, **fields: float) -> Total:
    """An hour of a server, with engines where fields tell of any."""
    return Total(at(hour), {"boundary": "server", "server": server, "pool": "p"}, {"window_s": 3600.0} | fields)


def usage(hour: int, pool: str = "p") -> Total:
    tags = {"boundary": "fleet", "pool": pool, "simulated": "false"}
    return Total(at(hour), tags, {"active_j": 1.0, "window_s": 3600.0, "paired_s": 3600.0})


def span(until: int, step: Step = "none", since: int = 0) -> Span:
    return Span(at(since), at(until), step)


def fleet(silent: int = 1, hours: int = 4) -> list[Total]:
    return [ledger(f"s{number}", hour, active_j=1.0) for number in range(silent, 10) for hour in range(hours)]


STAYS = [Stay(f"s{number}", "p", *ALWAYS) for number in range(10)]


def coverages(rows: list[Total], step: Step) -> list[object]:
    return [usage_figures(total)["coverage"] for total in added_up(rows, ("pool",), step)]


def test_a_fleet_with_a_tenth_of_silent_servers_has_coverage_0_9() -> None:
    there = attendance(fleet(), STAYS, span(4))
    rows = attended([usage(hour) for hour in range(4)], there, span(4))
    assert coverages(rows, "none") == [pytest.approx(0.9)]
    assert inventory_table(there) == [
        {
            "pool": "p",
            "expected_s": 10 * 4 * 3600.0,
            "reported_s": 9 * 4 * 3600.0,
            "coverage": 0.9,
            "silent_servers": 1,
            "silent": ["s0"],
        }
    ]


def test_an_hour_in_which_all_are_silent_is_missed_in_its_step() -> None:
    """Hours 0 to 3 of a day are told of, and its other hours are not."""
    for step, expected in (("none", [1 / 3]), ("day", [1 / 3]), ("hour", [1.0] * 4)):
        of = span(12, step)
        there = attendance(fleet(silent=0), STAYS, of)
        rows = attended([usage(hour) for hour in range(4)], there, of)
        assert coverages(rows, step) == pytest.approx(expected)
        assert there.whole["p"].share == pytest.approx(1 / 3)


def test_a_group_in_two_pools_misses_what_the_worse_of_them_misses() -> None:
    stays = [*STAYS, Stay("q0", "q", *ALWAYS), Stay("q1", "q", *ALWAYS)]
    there = attendance([*fleet(), ledger("q0", 0, active_j=1.0)], stays, span(1))
    rows = attended([usage(0, pool="p"), usage(0, pool="p+q"), usage(0, pool="p+r")], there, span(1))
    assert [total.fields["paired_s"] / 3600 for total in rows] == pytest.approx([0.9, 0.5, 0.9])


def test_what_cannot_have_come_yet_is_not_missed() -> None:
    half = Span(at(0), at(1) - HOUR_NS // 2, "hour")
    told = [ledger(f"s{number}", 0, active_j=1.0, window_s=1800.0) for number in range(10)]
    assert attendance(told, STAYS, half).whole["p"].share == 1.0


def test_everything_begins_with_the_first_hour_that_is_told() -> None:
    assert attendance(fleet(silent=0), STAYS, Span(0, at(4), "none")).whole["p"].share == 1.0


def test_a_server_without_engines_tells_by_its_meters() -> None:
    told = [*fleet(), *(ledger("s0", hour, covered_s=1800.0, unattributed_j=5.0) for hour in range(4))]
    assert attendance(told, STAYS, span(4)).whole["p"].share == 0.95


def test_pools_of_no_inventory_keep_their_coverage_and_strangers_are_named() -> None:
    there = attendance([*fleet(), ledger("x", 0, active_j=1.0)], STAYS, span(4))
    assert there.strangers == ("x",)
    assert attended([usage(0, pool="q")], there, span(4)) == [usage(0, pool="q")]


def test_the_table_tells_what_was_charged_and_what_was_not() -> None:
    held = PoolHour(reserved_ns=1, engines_uj=70_000_000, spare_uj=30_000_000, overhead_uj=5_000_000)
    empty = PoolHour(spare_uj=4_000_000, overhead_uj=1_000_000, unattributed_uj=2_000_000, unmatched_uj=3_000_000)
    pools = {Place(at(0), "p", "fra", "false"): held, Place(at(1), "p", "fra", "false"): empty}
    (row,) = pool_table(pools)
    assert row == {
        **{"pool": "p", "site": "fra", "simulated": False, "shared_j": 30.0, "overhead_j": 5.0},
        **{"unshared_j": 5.0, "unattributed_j": 2.0, "unmatched_j": 3.0},
    }


def test_what_is_left_out_is_told() -> None:
    pools = {Place(0, "p", "", "false"): PoolHour(unattributed_uj=1_500_000_000, unmatched_uj=0)}
    assert leaves_out([], False, {}) == [
        "network, storage and other equipment without an agent",
        "servers without an agent",
    ]
    declared, servers, energy = leaves_out([Overhead(what="network", watts=1.0, pool="p")], True, pools)
    assert declared.endswith("beside what is declared: network")
    assert servers.endswith("those of the inventory lower the coverage")
    assert energy == "energy above idle that no engine explains, on servers with engines: 1,500 J"
