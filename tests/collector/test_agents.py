"""Agents by their last windows."""

from joulefleet_collector.agents import agent_states
from joulefleet_collector.rows import Row

S = 1_000_000_000
NOW = 1_790_000_000 * S


def agent(server: str, ago_s: float, timeline: str = "1", **fields: float) -> Row:
    start_ns = NOW - round((ago_s + 60) * S)
    tags = {"server": server, "pool": "p", "site": "", "simulated": "false", "timeline": timeline}
    return Row("agent", start_ns, tags, {"window_s": 60.0, **fields})


def fact(server: str, name: str, value: str, at_s: int) -> Row:
    return Row("facts", at_s * S, {"server": server, "fact": name, "value": value}, {"seen": 1.0})


def test_each_agent_has_a_status_and_a_lag() -> None:
    rows = [agent("a", 10), agent("b", 301), agent("c", 10, lost_windows=2.0), agent("d", 10, refused_windows=1.0)]
    states = {one.server: one for one in agent_states(rows, [], NOW, ["a", "z"])}
    assert {name: one.status for name, one in states.items()} == {
        "a": "ok",
        "b": "silent",
        "c": "loses",
        "d": "loses",
        "z": "never",
    }
    assert states["a"].lag_s == 10
    assert states["z"].lag_s is None
    assert list(states) == ["a", "b", "c", "d", "z"]


def test_an_agent_of_short_windows_is_not_silent_after_a_moment() -> None:
    quick = Row("agent", NOW - 100 * S, {"server": "a"}, {"window_s": 1.0})
    assert agent_states([quick], [], NOW)[0].status == "ok"


def test_the_newest_timeline_and_the_newest_facts_stand() -> None:
    rows = [agent("a", 500, "old", spool_windows=7.0), agent("a", 5, "new", spool_windows=1.0)]
    facts = [fact("a", "driver", "570", 1), fact("a", "driver", "580", 2), fact("b", "driver", "1", 3)]
    (state,) = agent_states(rows, facts, NOW)
    assert (state.timeline, state.spool_windows, state.facts) == ("new", 1.0, {"driver": "580"})


def test_a_retired_server_is_neither_silent_nor_missing_until_it_reports_again() -> None:
    end_ns = NOW - 900 * S
    rows = [agent("gone", 900), agent("back", 900), agent("back", 10), agent("left", 900)]
    retired = {"gone": end_ns, "back": end_ns, "never": 0}
    states = agent_states(rows, [], NOW, ["gone", "never", "nobody"], retired)
    assert {one.server: one.status for one in states} == {
        "gone": "retired",
        "back": "ok",
        "left": "silent",
        "never": "retired",
        "nobody": "never",
    }


def test_labels_clock_and_versions_are_told() -> None:
    row = agent("a", 5, clock_ahead_s=-0.5, clock_error_s=0.01)
    tagged = Row("agent", row.start_ns, {**row.tags, "rack": "r1", "step_s": "60"}, row.fields)
    (state,) = agent_states([tagged], [fact("a", "agent", "0.1.0", 1), fact("a", "schema", "1", 1)], NOW)
    assert state.labels == {"rack": "r1"}
    assert (state.clock_ahead_s, state.clock_error_s) == (-0.5, 0.01)
    assert (state.version, state.schema) == ("0.1.0", "1")


def test_what_an_agent_does_not_tell_is_not_zero() -> None:
    (state,) = agent_states([agent("a", 5)], [], NOW)
    assert state.lost_j is None
    assert state.clock_ahead_s is None
