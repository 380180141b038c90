"""The agents of a fleet as their last windows tell: when each was heard, what waits with it, what it lost."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from joulefleet.grid import rfc3339
from joulefleet.units import ns_to_s, s_to_ns
from joulefleet_collector.rows import Row

SILENT_WINDOWS = 5
"""An agent is silent when so many windows are due and did not come; and not before SILENT_S."""
SILENT_S = 180.0


class AgentState(msgspec.Struct, frozen=True, kw_only=True):
    """One agent: the newest timeline of one server."""

    server: str
    status: str
    """`ok`, `silent`, `loses` (its spool was full, or windows were refused for good), or `never` reported."""
    pool: str = ""
    site: str = ""
    simulated: bool = False
    timeline: str = ""
    last_window: str = ""
    """End of the last window, RFC 3339; empty where none came."""
    lag_s: float | None = None
    """Seconds since then, by the collector's clock."""
    spool_windows: float | None = None
    spool_bytes: float | None = None
    lost_windows: float | None = None
    lost_s: float | None = None
    lost_j: float | None = None
    refused_windows: float | None = None
    rss_bytes: float | None = None
    facts: dict[str, str] = {}
    """Versions, driver and the like, as last told."""


def agent_states(
    agents: Iterable[Row], facts: Iterable[Row], now_ns: int, expected: Sequence[str] = ()
) -> list[AgentState]:
    """All agents by name, those that are expected and never reported included."""
    told = _facts(facts)
    states = {server: _state(row, told.get(server, {}), now_ns) for server, row in newest(agents).items()}
    missing = {name: AgentState(server=name, status="never") for name in expected if name not in states}
    return [state for _, state in sorted({**states, **missing}.items())]


def newest(agents: Iterable[Row]) -> dict[str, Row]:
    """The newest of the agents' rows by server, whichever timeline it is of."""
    found: dict[str, Row] = {}
    for row in agents:
        server = row.tags.get("server", "")
        if server not in found or row.start_ns > found[server].start_ns:
            found[server] = row
    return found


def _state(row: Row, facts: dict[str, str], now_ns: int) -> AgentState:
    window_s = row.fields.get("window_s", 0.0)
    end_ns = row.start_ns + s_to_ns(window_s)
    lag_s = ns_to_s(now_ns - end_ns)
    told = ("spool_windows", "spool_bytes", "lost_windows", "lost_s", "lost_j", "refused_windows", "rss_bytes")
    return AgentState(
        server=row.tags.get("server", ""),
        status=_status(row.fields, lag_s, window_s),
        pool=row.tags.get("pool", ""),
        site=row.tags.get("site", ""),
        simulated=row.tags.get("simulated") == "true",
        timeline=row.tags.get("timeline", ""),
        last_window=rfc3339(end_ns),
        lag_s=lag_s,
        facts=facts,
        **{name: row.fields.get(name) for name in told},
    )


def _status(fields: Mapping[str, float], lag_s: float, window_s: float) -> str:
    if lag_s > max(SILENT_WINDOWS * window_s, SILENT_S):
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
