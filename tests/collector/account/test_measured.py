"""Rows that carry over what was measured."""

from types import SimpleNamespace

from joulefleet.reading import Counts
from joulefleet.units import j_to_uj, s_to_ns
from joulefleet.window import AgentCost, Losses
from joulefleet_collector.account.measured import agent, facts, meter, work


def test_work_is_told_by_tenant_whether_its_energy_is_known_or_not(build: SimpleNamespace) -> None:
    works = [
        build.work("m", tenant="x", output_tokens=3, late=Counts(requests_ok=1)),
        build.work("m", tenant="y", requests_ok=0),
    ]
    x, y = work(build.engine("e", works=works, covered_s=20), {"software": "vllm"}, s_to_ns(60))
    assert x.tags == {"software": "vllm", "model": "m", "revision": "", "tenant": "x", "layer": ""}
    assert x.fields == {"output_tokens": 3, "late_requests_ok": 1, "window_s": 60, "covered_s": 20}
    assert y.fields == {"requests_ok": 0, "window_s": 60, "covered_s": 20}


def test_a_meter_tells_its_joules_and_its_gaps(build: SimpleNamespace) -> None:
    reading = build.meter("gpu", 100, covered_s=50, late_j=2, hw_model="H100")
    reading.gaps_ns = {"gpu_lost": s_to_ns(6), "hung": s_to_ns(4)}
    reading.interpolated_ns = s_to_ns(20)
    reading.rejected_uj, reading.lower_bound_uj = j_to_uj(1), j_to_uj(5)
    reading.gauge_uj, reading.gauge_ns = j_to_uj(99), s_to_ns(49)
    entry = meter(reading, s_to_ns(60))
    assert entry.tags == {"meter": "gpu", "kind": "accelerator", "grade": "counter", "hw_model": "H100"}
    assert entry.fields == {
        "window_s": 60,
        "energy_j": 100,
        "covered_s": 50,
        "interpolated_s": 20,
        "late_j": 2,
        "rejected_j": 1,
        "lower_bound_j": 5,
        "gauge_j": 99,
        "gauge_s": 49,
        "gap_s": 10,
        "hung_s": 4,
        **dict.fromkeys(("stuck_s", "implausible_s", "stale_s", "unvalidated_j", "disagreeing_j"), 0),
    }


def test_a_meter_that_was_not_read_tells_no_joules(build: SimpleNamespace) -> None:
    silent = meter(build.meter("gpu", covered_s=0), s_to_ns(60)).fields
    assert not {"energy_j", "gauge_j", "gauge_s"} & set(silent)
    assert silent["covered_s"] == 0
    assert meter(build.meter("gpu", 0, covered_s=60), s_to_ns(60)).fields["energy_j"] == 0


def test_a_cost_that_was_not_measured_is_not_zero(build: SimpleNamespace) -> None:
    fields = agent(build.window()).fields
    assert not {"cpu_s", "energy_j", "rss_bytes", "spool_windows", "spool_bytes"} & fields.keys()
    assert fields["lost_windows"] == 0


def test_a_clock_that_was_compared_is_told_also_where_it_stands_right(build: SimpleNamespace) -> None:
    late = agent(build.window(agent=AgentCost(clock_ahead_ns=-s_to_ns(3), clock_error_ns=s_to_ns(0.5)))).fields
    assert (late["clock_ahead_s"], late["clock_error_s"]) == (-3, 0.5)
    right = agent(build.window(agent=AgentCost(clock_ahead_ns=0, clock_error_ns=0))).fields
    assert (right["clock_ahead_s"], right["clock_error_s"]) == (0, 0)
    assert not {"clock_ahead_s", "clock_error_s"} & agent(build.window(agent=AgentCost(rss_bytes=7))).fields.keys()


def test_the_agent_tells_its_cost_and_its_losses(build: SimpleNamespace) -> None:
    cost = AgentCost(cpu_ns=s_to_ns(0.5), rss_bytes=7, energy_uj=j_to_uj(2), spool_windows=3, spool_bytes=9)
    lost = Losses(windows=1, seconds=60.0, energy_uj=j_to_uj(500), refused_windows=4)
    entry = agent(build.window(agent=cost, losses=lost))
    assert entry.fields == {
        "windows": 1,
        "window_s": 60,
        "cpu_s": 0.5,
        "energy_j": 2,
        "rss_bytes": 7,
        "spool_windows": 3,
        "spool_bytes": 9,
        "lost_windows": 1,
        "lost_s": 60,
        "lost_j": 500,
        "refused_windows": 4,
    }


def test_each_fact_is_seen_once(build: SimpleNamespace) -> None:
    found = list(facts(build.window(facts={"driver": "580", "kernel": "6.8"})))
    assert [(entry.tags, entry.fields) for entry in found] == [
        ({"fact": "driver", "value": "580"}, {"seen": 1}),
        ({"fact": "kernel", "value": "6.8"}, {"seen": 1}),
    ]
