"""The agents of a fleet as their last windows tell: when each was heard, what waits with it, what it lost."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from joulefleet.grid import rfc3339
from joulefleet.units import ns_to_s, s_to_ns
from joulefleet_collector.rows import AGENT, SERVER_TAGS, WINDOW_TAGS, Row

SILENT_WINDOWS = 5
"""An agent is silent when so many windows are due and did not come; and not before SILENT_S."""
SILENT_S = 180.0
PROOF = "joulefleet-check"
"""The name under which `collector check` leaves its proof in a store: no agent bears it."""
STATUSES = ("ok", "silent", "loses", "never", "retired")
OWN_TAGS = frozenset((*SERVER_TAGS, *WINDOW_TAGS, *AGENT.tags))
"""Tags of an agent's row that are no labels."""


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """One agent: the newest timeline of one server."""

    server: str
    status: str
    """`ok`, `silent`, `loses` (its spool was full, or windows were refused for good), `never` reported, or `retired`
    (gone for good; its next window brings it back)."""
    pool: str = ""
    site: str = ""
    labels: dict[str, str] = {}
    simulated: bool = False
    timeline: str = ""
    last_window: str = ""
    """End of the last window, RFC 3339; empty where none came."""
    lag_s: float | None = None
    """Seconds since then, by the collector's clock."""
    clock_ahead_s: float | None = None
    """The agent's clock less the collector's; known to within `clock_error_s`."""
    clock_error_s: float | None = None
    spool_windows: float | None = None
    spool_bytes: float | None = None
    lost_windows: float | None = None
    lost_s: float | None = None
    lost_j: float | None = None
    refused_windows: float | None = None
    rss_bytes: float | None = None
    version: str = ""
    """Of the agent; `schema` is that of its windows."""
    schema: str = ""
    facts: dict[str, str] = {}
    """Versions, driver and the like, as last told."""


def agent_states(
    agents: Iterable[Row],
    facts: Iterable[Row],
    now_ns: int,
    expected: Sequence[str] = (),
    retired: Mapping[str, int] | None = None,
) -> list[AgentState]:
    """All agents by name, those included that are expected, or were retired, and never reported.

    `retired` tells the end of the last window that a retired server had sent, by name.
    """
    told, gone = _facts(facts), retired or {}
    states = {server: _state(row, told.get(server, {}), now_ns, gone) for server, row in newest(agents).items()}
    missing = {
        name: AgentState(server=name, status="retired" if name in gone else "never")
        for name in (*expected, *gone)
        if name not in states
    }
    return [state for _, state in sorted({**states, **missing}.items())]


def newest(agents: Iterable[Row]) -> dict[str, Row]:
    """The newest of the agents' rows by server, whichever timeline it is of."""
    found: dict[str, Row] = {}
    for row in agents:
        server = row.tags.get("server", "")
        if server == PROOF:
            continue
        if server not in found or row.start_ns > found[server].start_ns:
            found[server] = row
    return found


def end_ns(row: Row) -> int:
    """End of the window that an agent's row is of."""
    return row.start_ns + s_to_ns(row.fields.get("window_s", 0.0))


def _state(row: Row, facts: dict[str, str], now_ns: int, retired: Mapping[str, int]) -> AgentState:
    server, lag_s = row.tags.get("server", ""), ns_to_s(now_ns - end_ns(row))
    is_retired = end_ns(row) <= retired.get(server, -1)
    return AgentState(
        server=server,
        status="retired" if is_retired else _status(row.fields, lag_s),
        pool=row.tags.get("pool", ""),
        site=row.tags.get("site", ""),
        labels={name: value for name, value in sorted(row.tags.items()) if name not in OWN_TAGS},
        simulated=row.tags.get("simulated") == "true",
        timeline=row.tags.get("timeline", ""),
        last_window=rfc3339(end_ns(row)),
        lag_s=lag_s,
        version=facts.get("agent", ""),
        schema=facts.get("schema", ""),
        facts=facts,
        **{name: row.fields.get(name) for name in AGENT.latest},
    )


def _status(fields: Mapping[str, float], lag_s: float) -> str:
    if lag_s > max(SILENT_WINDOWS * fields.get("window_s", 0.0), SILENT_S):
        return "silent"
    return "loses" if fields.get("lost_windows") or fields.get("refused_windows") else "ok"


def _facts(rows: Iterable[Row]) -> dict[str, dict[str, str]]:
    """The newest value of each fact by server."""
    newest: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row.tags.get("server", ""), row.tags.get("fact", "")
        if key not in newest or row.start_ns > newest[key].start_ns:
            newest[key] = row
    out: dict[str, dict[str, str]] = {}
    for (server, fact), row in sorted(newest.items()):
        out.setdefault(server, {})[fact] = row.tags.get("value", "")
    return out
