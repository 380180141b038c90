"""The worked vectors of accounting, from window to figures.

T1 to T4 and T24 are where counters are read (tests/core/test_counter.py) and cut (tests/agent/test_cutter.py), T18
where units are turned (tests/core/test_units.py) and figures made (tests/collector/test_usage.py).
"""

from types import SimpleNamespace

import msgspec
import pytest

from joulefleet.window import Window
from joulefleet_collector.account.account import account
from joulefleet_collector.account.policy import Policy
from joulefleet_collector.rows import Row
from joulefleet_collector.store.store import Total
from joulefleet_collector.usage import Figures, usage_figures

DEFAULT = Policy()


def figures(rows: list[Row], build: SimpleNamespace, **tags: str) -> Figures:
    """Figures of the sum of all usage rows that have these tags."""
    return usage_figures(Total(0, {}, build.summed(rows, **tags)))


# T5: one GPU of 33,000 J, 90 W idle, reserved 0.4 and 0.6


def shared_gpu(build: SimpleNamespace, a: dict[str, int], b: dict[str, int]) -> Window:
    return build.window(
        [build.meter("gpu", 33_000, idle_w=90)],
        [
            build.engine("A", [("gpu", 0.4)], [build.work("8b", **a)]),
            build.engine("B", [("gpu", 0.6)], [build.work("70b", **b)]),
        ],
    )


BUSY = ({"busy_ns": 30 * 10**9}, {"busy_ns": 15 * 10**9})
RAW_TOKENS = ({"output_tokens": 9_000}, {"output_tokens": 1_500})
TOKENS = (
    {"prompt_tokens": 40_000, "cached_tokens": 0, "output_tokens": 9_000},
    {"prompt_tokens": 6_000, "cached_tokens": 0, "output_tokens": 1_500},
)
ACTIVE_PARAMETERS = Policy(model_weights={"8b": 8_030, "70b": 70_600})


@pytest.mark.parametrize(
    ("work", "policy", "method", "a_j", "b_j"),
    [
        (BUSY, DEFAULT, "busy", 20_560.0, 12_440.0),
        (RAW_TOKENS, DEFAULT, "work", 25_817.143, 7_182.857),
        (TOKENS, ACTIVE_PARAMETERS, "work", 13_563.776, 19_436.224),
    ],
    ids=["busy", "raw tokens", "tokens by active parameters"],
)
def test_t5_a_shared_gpu(
    build: SimpleNamespace, work: tuple[dict, dict], policy: Policy, method: str, a_j: float, b_j: float
) -> None:
    rows = account(shared_gpu(build, *work), policy)
    for model, energy_j in (("8b", a_j), ("70b", b_j)):
        fields = build.find(rows, "usage", model=model)
        assert build.charged_j(fields) == pytest.approx(energy_j, abs=1e-3)
        assert fields[f"by_{method}_j"] == fields["active_j"]
        assert fields["by_reservation_j"] == fields["idle_j"]
    assert sum(build.charged_j(build.find(rows, "usage", model=m)) for m in ("8b", "70b")) == pytest.approx(
        33_000, abs=1e-9
    )


def test_idle_power_is_paid_as_the_policy_has_it_and_the_sum_stays(build: SimpleNamespace) -> None:
    # 27,600 J above idle go 2 to 1; 5,400 J of idle by the reservation, by the same 2 to 1, or to nobody.
    paid = {"by_reservation": (2_160, 3_240), "by_use": (3_600, 1_800), "separate": (0, 0)}
    for idle, (a_j, b_j) in paid.items():
        rows = account(shared_gpu(build, *BUSY), Policy(idle=idle))
        a, b = (build.find(rows, "usage", model=model) for model in ("8b", "70b"))
        ledger = build.find(rows, "ledger")
        assert (a["idle_j"], b["idle_j"]) == (a_j, b_j)
        assert (a["active_j"], b["active_j"]) == (18_400, 9_200)
        assert ledger["idle_unallocated_j"] == 5_400 - a_j - b_j
        assert (ledger["metered_j"], ledger["residual_uj"]) == (33_000, 0)


def test_idle_power_of_a_host_follows_its_boards_by_use(build: SimpleNamespace) -> None:
    rows = account(build.four_gpus(), Policy(idle="by_use"))
    s1, s2 = (build.find(rows, "usage", model=model, boundary="server") for model in ("m1", "m2"))
    # 18,000 J of the host as 40,200 to 7,800 J of the boards; the idle energy of the free board stays nobody's.
    assert (s1["idle_j"], s2["idle_j"]) == (8_400 + 15_075, 4_200 + 2_925)
    assert build.find(rows, "ledger", boundary="server")["idle_unallocated_j"] == 4_200


# T6: a server of four GPUs, two engines and a free GPU


def test_t6_a_server(build: SimpleNamespace) -> None:
    rows = account(build.four_gpus(), DEFAULT)
    s1 = build.find(rows, "usage", model="m1", boundary="server")
    s2 = build.find(rows, "usage", model="m2", boundary="server")
    ledger = build.find(rows, "ledger", boundary="server")
    assert build.charged_j(s1) == 68_655
    assert build.charged_j(s2) == 18_645
    assert (ledger["idle_unallocated_j"], ledger["unattributed_j"], ledger["unmatched_j"]) == (8_700, 0, 0)
    assert (ledger["metered_j"], ledger["residual_uj"]) == (96_000, 0)
    assert ledger["active_j"] + ledger["idle_j"] == 68_655 + 18_645
    assert ledger["other_j"] == 96_000 - 64_800 - 9_000 - 1_800
    accelerator = build.find(rows, "usage", model="m1", boundary="accelerator")
    assert accelerator["output_tokens_j"] / accelerator["output_tokens"] == 1.62
    assert s1["output_tokens_j"] / s1["output_tokens"] == pytest.approx(2.2885)
    assert s1["requests_j"] / s1["requests_ok"] == 686.55


def test_t6_says_how_its_joules_are_known(build: SimpleNamespace) -> None:
    s1 = build.find(account(build.four_gpus(), DEFAULT), "usage", model="m1", boundary="server")
    assert (s1["integrated_j"], s1["class_platform_j"], s1["counter_j"]) == (68_655, 68_655, 0)
    assert s1["by_exclusive_j"] == 48_600
    assert s1["by_reservation_j"] == 9_000
    assert s1["by_accelerator_j"] == 11_055


def test_at_compute_the_host_is_cpus_and_memory(build: SimpleNamespace) -> None:
    rows = account(build.four_gpus(), DEFAULT)
    # No idle power of CPU and memory is known: all of it follows the GPUs' dynamic energy, 40,200 to 7,800 J.
    assert (
        build.charged_j(build.find(rows, "usage", model="m1", boundary="compute")) == 48_600 + 10_800 * 40_200 / 48_000
    )
    ledger = build.find(rows, "ledger", boundary="compute")
    assert (ledger["metered_j"], ledger["idle_unallocated_j"], ledger["residual_uj"]) == (75_600, 4_200, 0)


# T7: the pair of pages of one engine on two boards


def test_t7_prefill_and_decode(build: SimpleNamespace) -> None:
    counts = {"prompt_tokens": 1_500, "cached_tokens": 800, "output_tokens": 2_000, "requests_ok": 19}
    boards = [build.meter("gpu0", 960), build.meter("gpu1", 1_040)]
    rows = account(build.window(boards, [build.engine("e", ["gpu0", "gpu1"], [build.work(**counts)])]), DEFAULT)
    told, row = figures(rows, build), build.find(rows, "usage")
    assert told["joules_per_output_token"] == 1.0
    assert told["joules_per_request"] == pytest.approx(105.263, abs=1e-3)
    assert row["prefill_active_j"] == pytest.approx(2_000 * 0.0338164, abs=1e-3) == pytest.approx(67.633, abs=1e-3)
    assert row["prefill_active_j"] + row["decode_active_j"] == 2_000
    # 700 : 50,000 and 700 : 10,000
    assert row["prefill_low_j"] == pytest.approx(2_000 * 700 / 50_700, abs=1e-6)
    assert row["prefill_high_j"] == pytest.approx(2_000 * 700 / 10_700, abs=1e-6)


def test_t7_by_the_time_that_an_engine_tells(build: SimpleNamespace) -> None:
    counts = {"prompt_tokens": 200, "output_tokens": 300, "busy_ns": 390_870_000_000, "prefill_busy_ns": 84_370_000_000}
    window = build.window([build.meter("gpu", 39_087, covered_s=600)], step_s=600)
    engine = build.engine("e", ["gpu"], [build.work(**counts)], covered_s=600, software="llama.cpp")
    rows = account(msgspec.structs.replace(window, engines=(engine,)), DEFAULT)
    row = build.find(rows, "usage")
    assert row["prefill_active_j"] / 200 == pytest.approx(42.185, abs=1e-3)
    assert row["decode_active_j"] / 300 == pytest.approx(102.167, abs=1e-3)
    assert row["prefill_low_j"] == row["prefill_high_j"] == row["prefill_active_j"] == 8_437
    assert figures(rows, build)["joules_per_request"] is None


# T9, T10, T12, T22: ratios are made of sums of rows


def one_gpu(build: SimpleNamespace, energy_j: float, covered_s: float = 60, **work: object) -> Window:
    running = work.pop("running", (None, None))
    meters = [build.meter("gpu", energy_j, covered_s=covered_s, grade="integrated")]
    return build.window(meters, [build.engine("e", ["gpu"], [build.work(**work)], running=running)])


def test_t9_a_gap_of_the_gauge_makes_work_unmetered_and_never_energy_cheap(build: SimpleNamespace) -> None:
    seen = [one_gpu(build, 36_000, output_tokens=180_000) for _ in range(6)]
    missed = [one_gpu(build, 0, 0, output_tokens=175_000) for _ in range(4)]
    total = build.summed([row for window in seen + missed for row in account(window, DEFAULT)])
    assert total["output_tokens_j"] / total["output_tokens"] == 0.2
    assert total["paired_s"] / total["window_s"] == 0.6
    assert total["unmetered_output_tokens"] == 700_000


def test_t10_an_idle_window_costs_energy_and_has_no_work(build: SimpleNamespace) -> None:
    window = build.window(
        [build.meter("gpu", 5_400, idle_w=90)],
        [build.engine("e", ["gpu"], [build.work(requests_ok=0, output_tokens=0)])],
    )
    fields = build.find(account(window, DEFAULT), "usage")
    assert (fields["idle_j"], fields["active_j"]) == (5_400, 0)
    assert (fields["output_tokens"], fields["requests_ok"]) == (0, 0)
    busy = account(one_gpu(build, 10_800, output_tokens=1_000, requests_ok=5), DEFAULT)
    assert build.summed([*busy, *account(window, DEFAULT)])["output_tokens_j"] == 16_200


def test_t12_joules_per_request_are_a_ratio_of_sums(build: SimpleNamespace) -> None:
    rows = [row for n in (10, 1_000) for row in account(one_gpu(build, 36_000, requests_ok=n), DEFAULT)]
    total = build.summed(rows)
    assert total["requests_j"] / total["requests_ok"] == pytest.approx(71.287, abs=1e-3)


def test_t22_requests_in_flight_bound_the_lag(build: SimpleNamespace) -> None:
    hours = [((40, 50), 700), ((50, 64), 500)]
    rows = [row for running, n in hours for row in account(one_gpu(build, 1, requests_ok=n, running=running), DEFAULT)]
    total = build.summed(rows)
    assert abs(total["running_delta"]) / total["requests_ok"] == 0.02


def test_t9_the_coverage_of_a_gap_refuses_the_figure(build: SimpleNamespace) -> None:
    seen = [one_gpu(build, 36_000, output_tokens=180_000) for _ in range(6)]
    missed = [one_gpu(build, 0, 0, output_tokens=175_000) for _ in range(4)]
    told = figures([row for window in seen + missed for row in account(window, DEFAULT)], build)
    assert (told["joules_per_output_token"], told["coverage"], told["status"]) == (None, 0.6, "refused")


def test_t10_an_idle_window_has_no_figure_and_says_why(build: SimpleNamespace) -> None:
    told = figures(account(one_gpu(build, 5_400, output_tokens=0, requests_ok=0), DEFAULT), build)
    assert (told["joules_per_output_token"], told["energy_j"]) == (None, 5_400)
    assert told["reasons"]["joules_per_output_token"] == "no output tokens in this time"


# T15, T16: published figures of whole servers and of boards


@pytest.mark.parametrize(("used", "each_j"), [(1.0, 0.24353), (0.5, 0.33877), (0.25, 0.52925), (0.1, 1.10070)])
def test_t15_idle_power_is_paid_by_fewer_tokens(build: SimpleNamespace, used: float, each_j: float) -> None:
    tokens = round(60 * used * (2_406 + 3_746) / 0.24353)
    wall = build.meter("wall", 60 * (2_406 + 3_746 * used), kind="server", idle_w=2_406, sensor_class="reference")
    rows = account(build.window([wall], [build.engine("e", [], [build.work(output_tokens=tokens)])]), DEFAULT)
    assert figures(rows, build)["joules_per_output_token"] == pytest.approx(each_j, rel=2e-5)
    assert build.find(rows, "usage")["idle_j"] == 144_360


def test_t16_a_published_figure_of_boards(build: SimpleNamespace) -> None:
    requests, tokens = 1_024, 414_300  # 404.58984375 tokens a request
    energy_j = 669.2439022030471 * tokens / 7036.531577937304
    rows = account(one_gpu(build, energy_j, output_tokens=tokens, requests_ok=requests), DEFAULT)
    told = figures(rows, build)
    assert told["joules_per_output_token"] == pytest.approx(0.09510991243206074, rel=1e-9)
    assert told["joules_per_request"] == pytest.approx(38.48050460996364, rel=1e-9)


# T23, T24: an engine of several models that tells how long each was busy; joules that no board can have used


def test_t23_models_of_one_engine_share_by_busy_time(build: SimpleNamespace) -> None:
    works = [
        build.work("resnet50", requests_ok=600, requests_failed=4, busy_ns=2_000_000_000 * 400 // 600),
        build.work("bert", requests_ok=200, busy_ns=1_500_000_000),
    ]
    rows = account(build.window([build.meter("gpu", 4_200)], [build.engine("e", ["gpu"], works)]), DEFAULT)
    resnet, bert = (build.find(rows, "usage", model=model) for model in ("resnet50", "bert"))
    assert build.charged_j(resnet) == pytest.approx(1_976.47, abs=5e-3)
    assert build.charged_j(bert) == pytest.approx(2_223.53, abs=5e-3)
    assert build.charged_j(resnet) + build.charged_j(bert) == 4_200
    assert figures(rows, build, model="resnet50")["joules_per_request"] == pytest.approx(3.2941, abs=1e-4)
    assert figures(rows, build, model="bert")["joules_per_request"] == pytest.approx(11.1176, abs=1e-4)


def test_t24_refused_joules_are_told_and_are_nobodys(build: SimpleNamespace) -> None:
    board = msgspec.structs.replace(build.meter("gpu", 12_000), rejected_uj=222_122_000_000)
    rows = account(build.window([board], [build.engine("e", ["gpu"], [build.work(output_tokens=1)])]), DEFAULT)
    ledger = build.find(rows, "ledger")
    assert (ledger["rejected_j"], ledger["metered_j"], ledger["residual_uj"]) == (222_122, 12_000, 0)
    assert build.charged_j(build.find(rows, "usage")) == 12_000
