"""The beginning of a store: made where it is missing and allowed, its epoch found again, missing rights named."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import msgspec
import pytest

from fixtures.fake_influxdb import Asked, Told, fake_influxdb
from fixtures.services import Server, influxd_1, of_debian, running_influxd_1
from joulefleet.grid import HOUR_NS
from joulefleet_collector.store.influx_config import InfluxConfig
from joulefleet_collector.store.influx_life import ensure, epoch_of, epochs, leave
from joulefleet_collector.store.influx_wire import Wire
from joulefleet_collector.store.store import StoreUnavailable

NOW_NS = 490_000 * HOUR_NS + 5


@contextmanager
def wire_to(config: InfluxConfig) -> Iterator[Wire]:
    with closing(Wire(config)) as wire:
        yield wire


def query(server: Server, statement: str, **options: str) -> dict[str, object]:
    """A statement sent to a real server, past the code that is tested."""
    asked = Request(f"{server.url}/query?{urlencode({'q': statement, **options})}", method="POST")
    with urlopen(asked, timeout=30) as answer:
        found: dict[str, object] = json.load(answer)
    return found


def test_a_missing_database_is_made_with_its_retention_and_a_present_one_left_alone(
    influxdb_1: Server, tmp_path: Path
) -> None:
    config = InfluxConfig(url=influxdb_1.url, database=tmp_path.name, retention_days=90)
    with wire_to(config) as wire:
        assert not wire.present()
        ensure(wire, config)
        assert wire.present()
        ensure(wire, msgspec.structs.replace(config, retention_days=7))
    assert "2160h0m0s" in str(query(influxdb_1, "SHOW RETENTION POLICIES", db=tmp_path.name))


def test_a_missing_database_that_may_not_be_made_is_told(influxdb_1: Server, tmp_path: Path) -> None:
    config = InfluxConfig(url=influxdb_1.url, database=tmp_path.name, create=False)
    with wire_to(config) as wire, pytest.raises(StoreUnavailable, match="make it, or set create = true"):
        ensure(wire, config)


def test_the_first_epoch_stays_whoever_comes_later(influxdb_1: Server, tmp_path: Path) -> None:
    config = InfluxConfig(url=influxdb_1.url, database=tmp_path.name)
    with wire_to(config) as wire:
        ensure(wire, config)
        assert epochs(wire) == []
        assert epoch_of(wire, "first", NOW_NS) == "first"
        assert epoch_of(wire, "second", NOW_NS + HOUR_NS) == "first"
        leave(wire, "a-faster-one", NOW_NS - HOUR_NS)
        assert epoch_of(wire, "third", NOW_NS) == "a-faster-one"
        assert epochs(wire) == ["a-faster-one", "first"]


def test_what_is_written_and_cannot_be_read_is_told() -> None:
    def forgetful(asked: Asked) -> Told:
        return Told() if asked.path == "/write" else Told(200, b'{"results":[{}]}')

    with (
        fake_influxdb(forgetful) as (url, _),
        wire_to(InfluxConfig(url=url, database="d")) as wire,
        pytest.raises(StoreUnavailable, match="retention"),
    ):
        epoch_of(wire, "first", NOW_NS)


def test_a_right_that_is_missing_on_a_real_server_is_named(tmp_path: Path) -> None:
    program = of_debian(influxd_1(), "InfluxDB 1.x (influxd)")
    with running_influxd_1(program, tmp_path, auth=True) as server:
        query(server, "CREATE USER root WITH PASSWORD 'r' WITH ALL PRIVILEGES")
        admin = {"u": "root", "p": "r"}
        for statement in (
            "CREATE DATABASE there",
            "CREATE USER guest WITH PASSWORD 'g'",
            "GRANT READ ON there TO guest",
        ):
            query(server, statement, **admin)
        told = {}
        for name, (user, password, database) in {
            "unknown": ("nobody", "x", "there"),
            "wrong": ("root", "hush", "there"),
            "create": ("guest", "g", "elsewhere"),
            "write": ("guest", "g", "there"),
        }.items():
            config = InfluxConfig(url=server.url, database=database, username=user, password=password)
            with wire_to(config) as wire, pytest.raises(StoreUnavailable) as error:
                ensure(wire, config)
                epoch_of(wire, "first", NOW_NS)
            told[name] = str(error.value)
        assert "INFLUX_PASSWORD" in told["unknown"] and "INFLUX_PASSWORD" in told["wrong"]
        assert "hush" not in told["wrong"]
        assert "the right to read database 'elsewhere'" in told["create"]
        assert "the right to write database 'there'" in told["write"]
        config = InfluxConfig(url=server.url, database="elsewhere", username="root", password="r")
        with wire_to(config) as wire:
            ensure(wire, config)
            assert epoch_of(wire, "first", NOW_NS) == "first"


class Two:
    """A fake of those parts of InfluxDB 2 that make buckets, in the form that its API documents."""

    def __init__(self, *buckets: str) -> None:
        self.buckets = list(buckets)
        self.mapped: list[dict[str, object]] = []
        self.made: list[dict[str, object]] = []

    def answer(self, asked: Asked) -> Told:
        made = json.loads(asked.body) if asked.method == "POST" and asked.path != "/query" else {}
        if asked.path == "/query":
            return (
                Told(200, b'{"results":[{}]}') if self.mapped else Told(404, b'{"error":"database not found: fleet"}')
            )
        if asked.path == "/api/v2/orgs":
            orgs = [{"id": "o1", "name": "ours"}] if asked.query["org"] == "ours" else []
            return Told(200, json.dumps({"orgs": orgs}).encode())
        if asked.path == "/api/v2/dbrps":
            self.mapped.append(made)
            return Told(201, b"{}")
        if asked.method == "GET":
            found = [{"id": f"id-{one}", "name": one} for one in self.buckets if one == asked.query["name"]]
            return Told(200, json.dumps({"buckets": found}).encode())
        self.made.append(made)
        self.buckets.append(made["name"])
        return Told(201, json.dumps({"id": f"id-{made['name']}"}).encode())


@pytest.mark.parametrize("there", [(), ("fleet",)])
def test_a_missing_bucket_is_made_and_mapped_for_influxql(there: tuple[str, ...]) -> None:
    two = Two(*there)
    with fake_influxdb(two.answer) as (url, _):
        config = InfluxConfig(url=url, bucket="fleet", org="ours", token="t", retention_days=1)
        with wire_to(config) as wire:
            ensure(wire, config)
            ensure(wire, config)
    rules = [{"type": "expire", "everySeconds": 86400}]
    assert two.made == ([] if there else [{"orgID": "o1", "name": "fleet", "retentionRules": rules}])
    (mapping,) = two.mapped
    assert (mapping["bucketID"], mapping["database"], mapping["default"]) == ("id-fleet", "fleet", True)


def test_an_unknown_organisation_is_told() -> None:
    with fake_influxdb(Two().answer) as (url, _):
        config = InfluxConfig(url=url, bucket="fleet", org="theirs", token="t")
        with wire_to(config) as wire, pytest.raises(StoreUnavailable, match="no organisation 'theirs'"):
            ensure(wire, config)


def test_a_bucket_is_made_on_a_real_server(influxdb_2: Server, tmp_path: Path) -> None:
    """On a real InfluxDB 2, where there is one."""
    config = InfluxConfig(url=influxdb_2.url, bucket=tmp_path.name, org="joulefleet", token="only-for-tests")
    with wire_to(config) as wire:
        ensure(wire, config)
        assert epoch_of(wire, "first", NOW_NS) == "first"
