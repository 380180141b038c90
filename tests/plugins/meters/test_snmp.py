"""The SNMP source, asking fake agents over loopback through the real package."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.snmp_agent import SnmpAgent, serving
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import Source, SourceUnavailable
from joulefleet.units import mw_to_w, wh_to_uj
from joulefleet.window import MeterWindow
from joulefleet_collector.account.cover import covers
from joulefleet_plugins.meters import snmp
from rigs.snmp import rig

pytest.importorskip("gufo.snmp", reason="the package gufo-snmp is not installed")

POWER, ENERGY = "1.3.6.1.4.1.318.1.1.26.9.4.3.1.7", "1.3.6.1.4.1.318.1.1.26.9.4.3.1.11"
SECRET = "not-to-be-told"


@pytest.fixture
def a() -> Iterator[SnmpAgent]:
    with serving(SECRET) as agent:
        yield agent


@pytest.fixture
def b() -> Iterator[SnmpAgent]:
    with serving(SECRET) as agent:
        yield agent


@pytest.fixture
def community(tmp_path: Path) -> Path:
    path = tmp_path / "community"
    path.write_text(f"{SECRET}\n")
    return path


def outlet(agent: SnmpAgent, number: int, watts: object, tenth_kwh: object = None) -> dict[str, Any]:
    """Let this outlet draw so much; the feed that names it."""
    told = {f"{POWER}.{number}": watts, f"{ENERGY}.{number}": tenth_kwh}
    agent.values.update({oid: value for oid, value in told.items() if value is not None})  # type: ignore[misc] # a test's
    return {"host": "127.0.0.1", "port": agent.port, "outlet": str(number)}


def open_(community: Path, *inputs: dict[str, Any], pdu: str = "apc_outlet") -> Source:
    return snmp.open({"pdu": pdu, "community_file": str(community), "meters": list(inputs)})


def declared(source: Source) -> dict[str, Meter]:
    return {one.id: one for one in source.declares if isinstance(one, Meter)}


def watts(source: Source) -> dict[str, float]:
    return {
        one.meter: mw_to_w(one.power_mw)
        for one in source.read()
        if isinstance(one, MeterReading) and one.power_mw is not None
    }


def codes(source: Source) -> dict[str, str]:
    return {one.subject: one.code for one in source.read() if isinstance(one, Failure)}


def test_one_outlet_is_one_server_and_its_counter_a_cross_check(a: SnmpAgent, community: Path) -> None:
    source = open_(community, {"feeds": [outlet(a, 7, 412, 45_678)], "max_w": 1_500})
    power, counter = declared(source).values()
    assert (power.id, power.kind, power.grade, power.current, power.max_power_mw) == (
        *("pdu", "server", "integrated", "ac"),
        1_500_000,
    )
    assert (counter.grade, counter.resolution_uj, counter.device) == ("counter", wh_to_uj(100), power.device)
    said = {one.meter: one for one in source.read() if isinstance(one, MeterReading)}
    assert (said["pdu"].power_mw, said["pdu"].counter_uj) == (412_000, None)
    assert (said["pdu/energy"].power_mw, said["pdu/energy"].counter_uj) == (412_000, wh_to_uj(4_567_800))


def test_the_coarse_counter_is_no_part_of_the_cover_and_an_enclosure_of_none(a: SnmpAgent, community: Path) -> None:
    feed = outlet(a, 7, 412, 45_678)
    server = open_(community, {"feeds": [feed]})
    (cover,) = covers([MeterWindow(meter=one) for one in declared(server).values()], 60 * 10**9)
    assert (cover.boundary, [one.meter.id for one in cover.meters]) == ("server", ["pdu"])
    enclosure = open_(community, {"feeds": [feed], "enclosure": True})
    assert {one.kind for one in declared(enclosure).values()} == {"enclosure"}
    assert covers([MeterWindow(meter=one) for one in declared(enclosure).values()], 60 * 10**9) == ()


def test_redundant_feeds_are_one_meter_their_sum(a: SnmpAgent, b: SnmpAgent, community: Path) -> None:
    source = open_(community, {"feeds": [outlet(a, 7, 400, 10), outlet(b, 9, 12, 20)]})
    assert watts(source) == {"pdu": 412.0, "pdu/energy": 412.0}
    (counter,) = [one for one in source.read() if isinstance(one, MeterReading) and one.counter_uj is not None]
    assert counter.counter_uj == wh_to_uj(3_000)
    assert declared(source)["pdu/energy"].resolution_uj == 2 * wh_to_uj(100)


def test_a_standby_feed_may_carry_nothing_but_not_both(a: SnmpAgent, b: SnmpAgent, community: Path) -> None:
    source = open_(community, {"feeds": [outlet(a, 7, 400), outlet(b, 9, 0)]})
    assert watts(source) == {"pdu": 400.0}
    outlet(a, 7, 0)
    assert codes(source) == {"pdu": "no_value"}


def test_a_server_of_which_one_feed_is_not_known_is_not_known(a: SnmpAgent, b: SnmpAgent, community: Path) -> None:
    source = open_(
        community, {"feeds": [outlet(a, 7, 400), outlet(b, 9, 400)]}, {"id": "other", "feeds": [outlet(a, 8, 5)]}
    )
    b.silent = True
    assert watts(source) == {"other": 5.0}
    (failure,) = [one for one in source.read() if isinstance(one, Failure)]
    assert (failure.subject, failure.code) == ("pdu", "timeout")
    b.silent = False
    assert watts(source) == {"pdu": 800.0, "other": 5.0}


def test_many_servers_of_one_unit_are_one_request(a: SnmpAgent, community: Path) -> None:
    inputs = [{"id": f"gpu-{n}", "feeds": [outlet(a, n, 100 + n)]} for n in range(1, 8)]
    source = open_(community, *inputs)
    a.asked.clear()
    assert watts(source) == {f"gpu-{n}": 100.0 + n for n in range(1, 8)}
    assert len(a.asked) == 1
    assert sorted(a.asked[0]) == sorted(f"{table}.{n}" for n in range(1, 8) for table in (POWER, ENERGY))


def test_a_declared_share_of_an_enclosure_is_modelled_and_says_whose(a: SnmpAgent, community: Path) -> None:
    source = open_(community, {"feeds": [outlet(a, 7, 4_000, 10)], "enclosure": True, "share": 0.25, "max_w": 8_000})
    found = declared(source)
    assert {name: one.kind for name, one in found.items()} == {
        "pdu/enclosure": "enclosure",
        "pdu": "server",
        "pdu/energy": "enclosure",
    }
    part = found["pdu"]
    assert (part.grade, part.sensor_class, part.max_power_mw, part.inside) == (
        *("modelled", "modelled"),
        2_000_000,
        "pdu/enclosure",
    )
    assert part.basis == f"0.25 of the enclosure at 127.0.0.1:{a.port}/7, a declared share"
    assert watts(source) == {"pdu/enclosure": 4_000.0, "pdu": 1_000.0, "pdu/energy": 4_000.0}
    (cover,) = covers([MeterWindow(meter=one) for one in found.values()], 60 * 10**9)
    assert (cover.boundary, [one.meter.id for one in cover.meters]) == ("server", ["pdu"])
    a.silent = True
    assert codes(source) == dict.fromkeys(found, "timeout")


def test_a_counter_that_is_seen_later_is_declared_then_and_missed_after(
    a: SnmpAgent, b: SnmpAgent, community: Path
) -> None:
    b.silent = True
    source = open_(community, {"feeds": [outlet(a, 7, 400, 10), outlet(b, 9, 12, 20)]})
    assert list(declared(source)) == ["pdu"]
    assert codes(source) == {"pdu": "timeout"}
    b.silent = False
    assert watts(source) == {"pdu": 412.0, "pdu/energy": 412.0}
    del b.values[f"{ENERGY}.9"]
    assert codes(source) == {"pdu/energy": "no_value"}
    assert list(declared(source)) == ["pdu", "pdu/energy"]


def test_a_counter_that_was_reset_is_another_life(a: SnmpAgent, community: Path) -> None:
    base = "1.3.6.1.4.1.534.6.6.7.6.5.1"
    a.values = {f"{base}.3.0.2": 177, f"{base}.4.0.2": 21_931, f"{base}.5.0.2": 1_663_159_425}
    feed = {"host": "127.0.0.1", "port": a.port, "outlet": "0.2"}
    source = open_(community, {"feeds": [feed]}, pdu="eaton_outlet")

    def epoch() -> str:
        return next(one.epoch for one in source.read() if isinstance(one, MeterReading) and one.counter_uj is not None)

    first = epoch()
    assert epoch() == first
    a.values |= {f"{base}.4.0.2": 3, f"{base}.5.0.2": 1_763_159_425}
    assert epoch() != first


def test_a_value_whose_time_stands_still_is_stale(tmp_path: Path) -> None:
    with rig(tmp_path) as pdu:
        pdu.run(60, 500)
        source = pdu.open()
        pdu.faults["stuck"]()
        pdu.run(30, 500)
        assert codes(source) == {}
        assert {one.age_ns for one in source.read() if isinstance(one, MeterReading)} == {30 * 10**9}
        pdu.run(31, 500)
        assert codes(source) == {"pdu": "stale", "pdu/energy": "stale"}
        pdu.mend()
        assert codes(source) == {}
        assert {one.age_ns for one in source.read() if isinstance(one, MeterReading)} == {0}


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("gone", "no_such_outlet"),
        ("hangs", "timeout"),
        ("fails", "snmp_failed"),
        ("rubbish", "not_a_number"),
        ("empty", "no_such_outlet"),
        ("negative", "not_measured"),
        ("zero", "no_value"),
    ],
)
def test_a_read_that_fails_is_a_failure_and_the_next_one_is_not(tmp_path: Path, fault: str, code: str) -> None:
    with rig(tmp_path) as pdu:
        pdu.run(60, 500)
        source = pdu.open()
        assert watts(source) == {"pdu": 500.0, "pdu/energy": 500.0}
        pdu.faults[fault]()
        pdu.run(10, 500)
        assert codes(source) == {"pdu": code, "pdu/energy": code}
        pdu.mend()
        assert watts(source) == {"pdu": 500.0, "pdu/energy": 500.0}


def test_a_unit_that_does_not_answer_is_no_source_and_says_the_mend(a: SnmpAgent, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong-community\n")
    with pytest.raises(SourceUnavailable) as absent:
        open_(wrong, {"feeds": [outlet(a, 7, 412)]})
    assert absent.value.code == "timeout"
    assert f"UDP port {a.port} of 127.0.0.1" in absent.value.mend and "community" in absent.value.mend
    assert "wrong-community" not in str(absent.value)


def test_a_name_that_no_one_knows_is_told(community: Path) -> None:
    with pytest.raises(SourceUnavailable) as absent:
        open_(community, {"feeds": [{"host": "pdu.invalid", "outlet": "7"}]})
    assert absent.value.code == "snmp_failed"
    assert "pdu.invalid" in str(absent.value) and "Errno" not in str(absent.value)
    assert "host and port" in absent.value.mend


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pdu": "apc"}, "none of apc_outlet"),
        ({"community_file": ""}, "community_file"),
        ({"user": "reader"}, "one of community_file"),
        ({"community_file": "", "user": "reader"}, "auth_file"),
        ({"meters": []}, "meters"),
        ({"meters": [{"feeds": []}]}, "feeds"),
        ({"meters": [{"feeds": [{"host": "h", "outlet": "AA1"}]}]}, "outlet"),
        ({"meters": [{"feeds": [{"host": "h", "outlet": "1"}]}] * 2}, "id of its own"),
        ({"meters": [{"feeds": [{"host": "h", "outlet": "1"}], "share": 25}]}, "share"),
        ({"period_s": 0.1}, "period_s"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_name(community: Path, change: dict[str, Any], told: str) -> None:
    table = {
        "pdu": "apc_outlet",
        "community_file": str(community),
        "meters": [{"feeds": [{"host": "h", "outlet": "1"}]}],
    }
    with pytest.raises(ConfigError) as refused:
        snmp.open({**table, **change})
    assert told in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"two\nlines\n", b"\xff\xfe"])
def test_a_secret_that_is_none_is_refused_and_never_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "community"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        open_(file, {"feeds": [{"host": "127.0.0.1", "outlet": "1"}]})
    assert str(file) in str(refused.value)
    assert "two" not in str(refused.value).replace(str(file), "")


def test_a_passphrase_that_is_too_short_is_refused(tmp_path: Path) -> None:
    short = tmp_path / "passphrase"
    short.write_text("secret\n")
    table = {"pdu": "apc_outlet", "user": "reader", "auth_file": str(short), "priv_file": str(short)}
    with pytest.raises(ConfigError, match="8 characters"):
        snmp.open({**table, "meters": [{"feeds": [{"host": "127.0.0.1", "outlet": "1"}]}]})
