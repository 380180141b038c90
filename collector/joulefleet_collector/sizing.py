"""How much a fleet writes and how much room it takes: estimates from what a simulated fleet was measured to take.

Measured with `joulefleet simulate --servers 20 --days 1 --fast`, 8 accelerators, 2 packages, 2 DRAM, BMC and one
engine a server: 590,784 rows of 28,800 windows.
"""

import msgspec

from joulefleet.units import per_day
from joulefleet_collector.config import StoreConfig

METERS = 13
BOUNDARIES = 3
WINDOW_BYTES = 2_145
"""Of a window in the embedded store, with its keys."""
SUM_BYTES = 47
"""Of a row of sums in the embedded store."""
INFLUX_ROW_BYTES = 103
"""Of a row in InfluxDB 1.6, data files and log together; InfluxDB compacts it further with time."""
INFLUX_ROWS_PER_S = 20_000
"""Rows that one InfluxDB 1.6 took from one collector, on two cores shared by both."""
MAX_SERIES = 1_000_000
"""The default of `max-series-per-database` in InfluxDB 1.x."""
HOURS_A_DAY = 24
MINUTES_A_DAY = 1440
YEAR_DAYS = 365.0


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be stored."""

    servers: int
    models: int
    """Models on each server."""
    step_s: float

    @property
    def rows_per_window(self) -> int:
        """Meters, ledgers, the agent, and for each model its usage at each boundary and its work."""
        return METERS + BOUNDARIES + 1 + self.models * (BOUNDARIES + 1)

    @property
    def windows_per_s(self) -> float:
        """Of all servers."""
        return self.servers / self.step_s


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """What a fleet writes, and the room that it takes once as much is let go as comes."""

    windows_per_s: float
    rows_per_s: float
    series: int
    """Combinations of tags; each restart of an agent with a new spool adds a server's again."""
    bytes_per_day: int
    kept_days: float
    """How long rows are kept; a year where they are never let go."""
    kept_windows_days: float | None
    """None where a store keeps no windows."""
    kept_bytes: int
    """With the windows and the sums of a year that the embedded store keeps beside them."""
    notes: list[str]


def size(fleet: Fleet, config: StoreConfig, retention_days: float) -> Size:
    """The size of this fleet in this store; `retention_days` is that of an InfluxDB, 0 for ever."""
    windows = per_day(fleet.windows_per_s)
    keys = fleet.servers * fleet.rows_per_window
    sums = keys * (HOURS_A_DAY + 1)
    if config.kind == "embedded":
        minutes = keys * min(windows / fleet.servers, MINUTES_A_DAY)
        series, days = keys, config.keep_minutes_days
        of_windows, of_minutes, of_sums = windows * WINDOW_BYTES, minutes * SUM_BYTES, sums * SUM_BYTES
        a_day = of_windows + of_minutes + of_sums
        kept = of_windows * config.keep_windows_days + of_minutes * days + of_sums * YEAR_DAYS
    else:
        # Its rows, and beside them the sums of hours and of days: a series each.
        series, days = 3 * keys, retention_days or YEAR_DAYS
        a_day = (windows * fleet.rows_per_window + sums) * INFLUX_ROW_BYTES
        kept = a_day * days
    return Size(
        windows_per_s=fleet.windows_per_s,
        rows_per_s=fleet.windows_per_s * fleet.rows_per_window,
        series=series,
        bytes_per_day=round(a_day),
        kept_days=days,
        kept_windows_days=config.keep_windows_days if config.kind == "embedded" else None,
        kept_bytes=round(kept),
        notes=_notes(config.kind, fleet.windows_per_s * fleet.rows_per_window, series),
    )


def _notes(kind: str, rows_per_s: float, series: int) -> list[str]:
    """What has to be thought of at this size."""
    notes = []
    if kind == "influxdb" and rows_per_s > INFLUX_ROWS_PER_S / 2:
        notes.append(
            f"{rows_per_s:,.0f} rows a second; one InfluxDB 1.6 took {INFLUX_ROWS_PER_S:,}: choose a longer step,"
            " more cores, or a distributed engine"
        )
    if kind == "influxdb" and series > MAX_SERIES:
        notes.append(f"{series:,} series; InfluxDB 1.x takes {MAX_SERIES:,} unless max-series-per-database is raised")
    return notes
