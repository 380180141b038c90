"""Real database servers, one of each for a whole run of the tests."""

from collections.abc import Iterator

import pytest

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
