"""The steps of accounting side by side that are exact to the microjoule."""

from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_collector.account.group import Charge, _follow, _share_evenly, values_of
from joulefleet_collector.account.numbers import numbers_of, told
from joulefleet_collector.account.plan import NOBODY, plan_of
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.account.share import share_out
from joulefleet_collector.account.skim import skim
from joulefleet_collector.sheet import SheetRows

energies = st.one_of(st.integers(0, 20), st.integers(0, 2**52))


@given(
    totals=st.lists(energies, min_size=1, max_size=5),
    weights=st.lists(st.integers(0, 16), min_size=1, max_size=6).filter(any),
)
def test_even_shares_are_those_of_share_out(totals: list[int], weights: list[int]) -> None:
    parts = _share_evenly(np.array(totals), weights)
    assert parts.tolist() == [share_out(total, weights) for total in totals]


@given(
    lines=st.lists(
        st.tuples(energies, st.lists(energies, min_size=4, max_size=4)),
        min_size=1,
        max_size=4,
    ),
    holders=st.lists(st.sampled_from([0, 1, NOBODY]), min_size=4, max_size=4),
)
def test_a_host_follows_its_devices_and_loses_nothing(lines: list[tuple[int, list[int]]], holders: list[int]) -> None:
    nothing = np.zeros(len(lines), np.int64)
    devices = [
        Charge(k, holder, nothing, np.array([weights[k] for _, weights in lines]), nothing > 0, "", "")
        for k, holder in enumerate(holders)
    ]
    parts = _follow(np.array([total for total, _ in lines]), devices, [0, 1, NOBODY])
    for (total, weights), line in zip(lines, parts.tolist(), strict=True):
        assert sum(line) == total
        for taker, part in zip([0, 1, NOBODY], line, strict=True):
            its = sum(weight for weight, holder in zip(weights, holders, strict=True) if holder == taker)
            assert not sum(weights) or abs(part * sum(weights) - total * its) < sum(weights)
        if not any(weights):
            assert line == [0, 0, total]


def test_t6_a_server_of_four_boards_and_two_engines(build: SimpleNamespace) -> None:
    boards = [build.meter(f"gpu{k}", energy_j, idle_w=70) for k, energy_j in enumerate((24_000, 24_600, 12_000, 4_200))]
    rest = [build.meter("package-0", 9_000, kind="cpu_package"), build.meter("dram-0", 1_800, kind="dram")]
    bmc = build.meter("bmc", 96_000, kind="server", idle_w=580)
    engines = [
        build.engine("s1", ["gpu0", "gpu1"], [build.work("m1", requests_ok=100, output_tokens=30_000)]),
        build.engine("s2", ["gpu2"], [build.work("m2", requests_ok=10, output_tokens=3_000)]),
    ]
    window = build.window([*boards, *rest, bmc], engines)
    planned, found = plan_of(window, Policy()), skim(window.encode())
    assert planned is not None and found is not None
    plan, sheet = planned
    numbers = [told(found)]
    (values,) = values_of(plan, numbers, numbers_of(plan, numbers), Policy())
    rows = SheetRows(sheet, window.start_ns, values)
    s1 = build.find(rows, "usage", model="m1", boundary="server")
    s2 = build.find(rows, "usage", model="m2", boundary="server")
    ledger = build.find(rows, "ledger", boundary="server")
    assert (s1["active_j"] + s1["idle_j"], s2["active_j"] + s2["idle_j"]) == (68_655, 18_645)
    assert (ledger["idle_unallocated_j"], ledger["unattributed_j"], ledger["residual_uj"]) == (8_700, 0, 0)
    assert (s1["by_exclusive_j"], s1["by_reservation_j"], s1["by_accelerator_j"]) == (48_600, 9_000, 11_055)
