"""Sizes of fleets: what grows with what, and the notes that a large one gets."""

import pytest

from joulefleet_collector.config import StoreConfig
from joulefleet_collector.sizing import Fleet, size

EMBEDDED, INFLUX = StoreConfig(data_dir="d"), StoreConfig(data_dir="d", kind="influxdb")
FLEET = Fleet(servers=20, models=1, step_s=60.0)


def test_the_measured_fleet_has_its_measured_size() -> None:
    """590,784 rows and 60.7 MB a day of InfluxDB, 91.3 MB of the embedded store were measured."""
    assert FLEET.rows_per_window * 28_800 == pytest.approx(590_784, rel=0.1)
    assert size(FLEET, INFLUX, 0).bytes_per_day == pytest.approx(60.7e6, rel=0.1)
    assert size(FLEET, EMBEDDED, 0).bytes_per_day == pytest.approx(91.3e6, rel=0.1)


@pytest.mark.parametrize("config", [EMBEDDED, INFLUX])
def test_twice_the_servers_are_twice_of_everything(config: StoreConfig) -> None:
    one, two = size(FLEET, config, 30), size(Fleet(servers=40, models=1, step_s=60.0), config, 30)
    for name in ("windows_per_s", "rows_per_s", "series", "bytes_per_day", "kept_bytes"):
        assert getattr(two, name) == pytest.approx(2 * getattr(one, name))


def test_more_models_and_shorter_windows_write_more() -> None:
    more = Fleet(servers=20, models=3, step_s=60.0)
    assert more.rows_per_window - FLEET.rows_per_window == 2 * 4
    assert size(more, INFLUX, 0).series > size(FLEET, INFLUX, 0).series
    shorter = Fleet(servers=20, models=1, step_s=10.0)
    assert size(shorter, INFLUX, 0).rows_per_s == pytest.approx(6 * size(FLEET, INFLUX, 0).rows_per_s)
    # In the embedded store six windows share one row of a minute.
    assert size(shorter, EMBEDDED, 0).bytes_per_day < 6 * size(FLEET, EMBEDDED, 0).bytes_per_day


def test_what_is_kept_follows_from_how_long() -> None:
    month, year = size(FLEET, INFLUX, 30), size(FLEET, INFLUX, 0)
    assert (month.kept_days, year.kept_days) == (30, 365)
    assert month.kept_bytes == pytest.approx(30 * month.bytes_per_day)
    short = StoreConfig(data_dir="d", keep_windows_days=1, keep_minutes_days=1)
    assert size(FLEET, short, 0).kept_bytes < size(FLEET, EMBEDDED, 0).kept_bytes


def test_a_fleet_that_is_too_large_for_one_influxdb_is_told_so() -> None:
    huge = Fleet(servers=50_000, models=1, step_s=10.0)
    rows, series = size(huge, INFLUX, 0).notes
    assert "distributed engine" in rows and "max-series-per-database" in series
    assert size(FLEET, INFLUX, 0).notes == size(huge, EMBEDDED, 0).notes == []
