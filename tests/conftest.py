"""Real database servers, one of each for a whole run of the tests; and how far property tests search."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from fixtures.services import (
    Server,
    influxd_1,
    influxd_2,
    of_debian,
    running_influxd_1,
    running_influxd_2,
    running_victoria_metrics,
    victoria_metrics,
)

# CI tries the same examples each time, so that it judges the change and not its luck; everybody else's runs search on,
# and `make fuzz` far.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.register_profile("fuzz", max_examples=2_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "search"))


@pytest.fixture(scope="session")
def influxdb_1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = of_debian(influxd_1(), "InfluxDB 1.x (influxd)")
    with running_influxd_1(program, tmp_path_factory.mktemp("influxdb_1")) as server:
        yield server


@pytest.fixture(scope="session")
def influxdb_2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = influxd_2()
    if program is None:
        pytest.skip("InfluxDB 2.x is not on PATH, and INFLUXD does not name it")
    with running_influxd_2(program, tmp_path_factory.mktemp("influxdb_2")) as server:
        yield server


@pytest.fixture(scope="session")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    program = of_debian(victoria_metrics(), "victoria-metrics")
    with running_victoria_metrics(program, tmp_path_factory.mktemp("victoria")) as server:
        yield server
