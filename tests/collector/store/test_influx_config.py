"""How an InfluxDB is named: the environment goes first, one bucket or one database, no secret is shown."""

import pytest

from joulefleet.config import ConfigError
from joulefleet_collector.store.influx_config import InfluxConfig, from_environment


def test_the_environment_goes_before_the_file() -> None:
    config = InfluxConfig(url="http://a:1", bucket="b", org="o", token="of-the-file")
    said = {"INFLUX_TOKEN": "t", "INFLUX_URL": "https://c", "INFLUX_RETENTION_DAYS": "90", "INFLUX_CREATE": "false"}
    merged = from_environment(config, {**said, "OTHER": "x"}, "f")
    assert (merged.url, merged.bucket, merged.token) == ("https://c", "b", "t")
    assert (merged.retention_days, merged.create, merged.read) == (90.0, False, True)


@pytest.mark.parametrize("form", [repr, str, "{}".format, "{!r}".format])
def test_secrets_are_never_shown(form: object) -> None:
    config = InfluxConfig(database="d", username="u", password="hush", token="quiet")
    shown = form(config)  # type: ignore[operator]  # each form makes a text of it
    assert "hush" not in shown and "quiet" not in shown and "database='d'" in shown
    assert "hush" not in config.place


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (InfluxConfig(), "name a bucket"),
        (InfluxConfig(bucket="b", database="d"), "name a bucket"),
        (InfluxConfig(url="localhost:8086", database="d"), "store.influxdb.url: expected http"),
        (InfluxConfig(url="http://u:hush@h:1", database="d"), "INFLUX_PASSWORD"),
    ],
)
def test_what_cannot_be_reached_is_refused_by_its_key(config: InfluxConfig, said: str) -> None:
    with pytest.raises(ConfigError, match=f"c.toml: store.influxdb.*{said}|c.toml: {said}") as told:
        from_environment(config, {}, "c.toml")
    assert "hush" not in str(told.value)


def test_a_wrong_value_of_the_environment_is_told_by_where_it_stands() -> None:
    with pytest.raises(ConfigError, match=r"environment: INFLUX: .*retention_days"):
        from_environment(InfluxConfig(database="d"), {"INFLUX_RETENTION_DAYS": "long"}, "f")


def test_the_name_for_influxql_of_a_bucket_with_a_retention_policy_is_the_database() -> None:
    assert InfluxConfig(bucket="db/autogen").name == "db"
    assert InfluxConfig(database="d").name == "d"
