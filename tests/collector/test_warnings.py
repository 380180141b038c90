"""What readers are warned of."""

from joulefleet_collector.rows import Row
from joulefleet_collector.store.overlap import Gap
from joulefleet_collector.store.store import Overlap, Total
from joulefleet_collector.warnings import of_sensors, warnings


def usage(boundary: str, simulated: str = "false", start: int | None = None, **sums: float) -> Total:
    return Total(start, {"model": "m", "boundary": boundary, "simulated": simulated}, sums)


def ledger(boundary: str, simulated: str = "false", **sums: float) -> Total:
    return Total(None, {"boundary": boundary, "simulated": simulated}, sums)


def told(*usage: Total, ledger: tuple[Total, ...] = (), agents: tuple[Row, ...] = ()) -> list[dict[str, object]]:
    return warnings(usage, ledger, agents, [], str)


def test_nothing_wrong_is_no_warning() -> None:
    fine = usage("server", active_j=1.0, idle_default_j=0.0, restarts=0.0, unmetered_requests_ok=0.0)
    agent = Row("agent", 0, {"server": "a"}, {"lost_windows": 0, "refused_windows": 0})
    assert told(fine, ledger=(ledger("server", metered_j=1.0, unmatched_j=0.0),), agents=(agent,)) == []


def test_joules_of_groups_that_lack_a_member_are_told_by_boundary() -> None:
    left_out = [usage("server", start=hour, left_out_j=2e6) for hour in (0, 1)]
    (one,) = told(*left_out, usage("server", left_out_j=0.0), usage("accelerator"))
    assert (one["code"], one["boundary"], one["left_out_j"]) == ("group_incomplete", "server", 4e6)
    assert "1.111 kWh of replica groups are left out" in str(one["message"])


def test_two_accounts_of_one_time_name_the_server_and_the_time() -> None:
    (one,) = warnings([], [], [], [Overlap("gpu-7", (1, 0xABC), 60, 120)], lambda at: f"t{at}")
    assert one["code"] == "two_agents_or_clock"
    assert (one["server"], one["since"], one["until"]) == ("gpu-7", "t60", "t120")
    assert one["timelines"] == ["00000001", "00000abc"]


def test_time_of_which_no_window_tells_is_named() -> None:
    (one,) = warnings([], [], [], [Gap("gpu-7", 60, 120)], lambda at: f"t{at}")
    assert (one["code"], one["server"], one["since"], one["until"]) == ("spool_lost", "gpu-7", "t60", "t120")


def test_a_clock_is_told_where_it_is_surely_off_and_by_its_newest_row() -> None:
    def clock(start_ns: int, server: str, ahead_s: float, error_s: float) -> Row:
        return Row("agent", start_ns, {"server": server}, {"clock_ahead_s": ahead_s, "clock_error_s": error_s})

    agents = (
        clock(1, "mended", 900.0, 0.1),
        clock(2, "mended", 0.0, 0.1),
        clock(1, "fast", 3.0, 0.5),
        clock(1, "slow", -3_600.0, 0.02),
        clock(1, "unsure", 9.0, 8.0),
        Row("agent", 3, {"server": "silent"}, {"lost_windows": 0}),
    )
    fast, slow = told(agents=agents)
    assert (fast["code"], fast["server"], fast["clock_ahead_s"]) == ("agent_clock", "fast", 3.0)
    assert "3.0 s ahead of the collector's (to within 0.50 s)" in str(fast["message"]) and "3600.0 s behind" in str(
        slow["message"]
    )


def test_lost_and_refused_windows_are_told_by_agent() -> None:
    row = Row("agent", 0, {"server": "a", "timeline": "01"}, {"lost_windows": 2, "lost_s": 120.0, "lost_j": 5.0})
    (one,) = told(agents=(row,))
    assert (one["code"], one["server"], one["lost_s"], one["refused_windows"]) == ("agent_losses", "a", 120.0, 0.0)
    assert told(agents=(Row("agent", 0, {}, {"refused_windows": 1}),))[0]["refused_windows"] == 1


def test_work_that_is_missing_at_a_wider_boundary_is_told_by_its_own_warnings() -> None:
    lost = {"window_s": 60.0, "paired_s": 0.0, "unmetered_requests_ok": 3.0}
    assert told(usage("facility", **lost), usage("fleet", **lost)) == []


def test_unmatched_is_told_once_a_boundary_and_simulated_apart() -> None:
    found = told(
        usage("server", window_s=120.0, paired_s=60.0, unmetered_requests_ok=4.0),
        usage("server", window_s=60.0, paired_s=0.0, unmetered_output_tokens=9.0),
        usage("compute", window_s=60.0, paired_s=60.0),
        ledger=(ledger("server", unmatched_j=7.0), ledger("server", "true", unmatched_j=1.0)),
    )
    assert [(one["boundary"], one["simulated"], one["unmatched_j"], one["unpaired_s"]) for one in found] == [
        ("server", False, 7.0, 120.0),
        ("server", True, 1.0, 0.0),
    ]
    assert found[0]["unmetered_requests_ok"] == 4.0 and found[0]["unmetered_output_tokens"] == 9.0


def test_a_sentence_names_only_what_there_is_in_numbers_that_can_be_read() -> None:
    (one,) = told(ledger=(ledger("server", unmatched_j=33_625.13),))
    assert one["message"] == "boundary server: 9.34 Wh have no work beside them; no figure contains them"
    (one,) = told(
        usage("server", window_s=60.0, paired_s=40.0, unmetered_requests_ok=1584.0, unmetered_output_tokens=9.0)
    )
    assert one["message"] == (
        "boundary server: 1,584 requests with 9 output tokens have no energy, since in 20 s a meter or an engine was"
        " not covered; no figure contains them"
    )
    (one,) = told(usage("server", idle_default_j=1.37421e7))
    assert "3.817 kWh of idle" in str(one["message"])


def test_restarts_are_told_once_and_not_once_a_boundary() -> None:
    (one,) = told(usage("server", restarts=2.0), usage("compute", restarts=2.0))
    assert (one["code"], one["restarts"], one["model"]) == ("engine_restarted", 2.0, "m")
    (one,) = told(usage("server", start=0, restarts=2.0), usage("server", start=60, restarts=1.0))
    assert one["restarts"] == 3.0


def test_models_and_catalogues_say_what_to_install() -> None:
    found = told(usage("compute", idle_default_j=5.0), ledger=(ledger("compute", modelled_j=25.0, metered_j=100.0),))
    assert [one["code"] for one in found] == ["modelled", "idle_from_catalogue"]
    assert found[0]["modelled_share"] == 0.25
    assert "joulefleet doctor" in str(found[0]["message"])


def sensor(meter: str, server: str = "gpu-7", simulated: str = "false", **sums: float) -> Total:
    return Total(None, {"server": server, "meter": meter, "simulated": simulated}, sums)


def test_sensors_that_are_not_well_are_named_the_worst_first() -> None:
    several = [sensor(f"GPU-{k}", disagreeing_j=float(k)) for k in range(40)]
    found = of_sensors([*several, sensor("psu", "gpu-8", stuck_s=60.0), sensor("dram", hung_s=0.0)])
    assert [one["code"] for one in found] == ["sensor_disagreement", "stuck"]
    assert (found[0]["sensors"], found[0]["disagreeing_j"], found[0]["simulated"]) == (39, 780.0, False)
    assert "780 J were told by 39 sensors" in str(found[0]["message"])
    assert "'GPU-39' of 'gpu-7', 'GPU-38' of 'gpu-7', 'GPU-37' of 'gpu-7' and 36 more; " in str(found[0]["message"])
    assert "'joulefleet doctor'" in str(found[0]["message"])
    worst = found[0]["worst"]
    assert isinstance(worst, list) and len(worst) == 30
    assert found[1]["worst"] == [{"server": "gpu-8", "meter": "psu", "stuck_s": 60.0}]


def test_the_first_minute_of_a_counter_is_no_news() -> None:
    assert of_sensors([sensor("a", unvalidated_j=5.0, energy_j=100.0)]) == []
    assert of_sensors([sensor("a", unvalidated_j=5.1, energy_j=100.0)])[0]["unvalidated_j"] == 5.1


def test_simulated_sensors_are_told_apart() -> None:
    both = [sensor("a", simulated=kind, unvalidated_j=1.0) for kind in ("true", "false")]
    assert [one["simulated"] for one in of_sensors(both)] == [False, True]
