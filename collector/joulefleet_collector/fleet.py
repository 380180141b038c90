"""The fleet as the store knows it: its agents and their warnings, which of them are retired, and a summary of all."""

from collections.abc import Callable, Sequence

import msgspec

from joulefleet_collector.agents import AgentState, agent_states, end_ns, newest
from joulefleet_collector.store.store import Store
from joulefleet_collector.warnings import Notice, clocks

SUMMED = ("ok", "silent", "loses", "retired")
"""Statuses of a summary: who never reported is not known without a list of those expected."""


class Listing(msgspec.Struct, frozen=True):
    """Agents by name, and what must be said of them."""

    agents: list[AgentState]
    warnings: list[Notice]


class Summary(msgspec.Struct, frozen=True):
    """All agents in a few numbers."""

    by_status: dict[str, int]
    spool_windows: float | None = None
    """Windows that wait with agents which are not retired, as they last told; None where none told."""
    newest_end_ns: int | None = None
    """End of the newest window of all; None where none came."""


class Fleet:
    """Asks the store, and keeps retired servers in it. Any call may raise StoreUnavailable."""

    def __init__(self, store: Store, now_ns: Callable[[], int]) -> None:
        self._store = store
        self._now_ns = now_ns

    def listing(self, expected: Sequence[str] = ()) -> Listing:
        """All agents, and those that are expected."""
        rows = self._store.latest("agent")
        states = agent_states(rows, self._store.latest("facts"), self._now_ns(), expected, self._store.retired())
        present = {state.server for state in states if state.status != "retired"}
        return Listing(states, clocks(row for row in rows if row.tags.get("server", "") in present))

    def summary(self) -> Summary:
        """What a scrape tells of the fleet, from what the store has at hand."""
        rows = newest(self._store.heard())
        states = agent_states(rows.values(), [], self._now_ns(), retired=self._store.retired())
        by_status = dict.fromkeys(SUMMED, 0)
        for state in states:
            by_status[state.status] += 1
        told = [one.spool_windows for one in states if one.status != "retired" and one.spool_windows is not None]
        return Summary(by_status, sum(told) if told else None, max(map(end_ns, rows.values()), default=None))

    def retire(self, servers: Sequence[str]) -> list[str]:
        """These servers are gone for good, until a newer window of theirs comes. Returns what must be said of it."""
        rows = newest(self._store.latest("agent"))
        before = {state.server: state for state in agent_states(rows.values(), [], self._now_ns())}
        self._store.retire({server: end_ns(rows[server]) if server in rows else 0 for server in servers})
        return [note for server in servers if (note := _note(server, before.get(server)))]

    def take_back(self, servers: Sequence[str]) -> list[str]:
        """These servers are not gone after all. Returns what must be said of it."""
        retired = self._store.retired()
        self._store.retire(dict.fromkeys(servers))
        return [f"'{server}' was not retired" for server in servers if server not in retired]


def _note(server: str, before: AgentState | None) -> str:
    if before is None:
        return f"'{server}' has never reported: is that its name?"
    if before.status == "silent":
        return ""
    return f"'{server}' reported {before.lag_s or 0.0:.0f} s ago: stop its agent, or its next window brings it back"
