"""Values in the outputs of tools and pages, found as a config describes it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.config import ConfigError, typed
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet_plugins.interfaces.output import Bound, MeterTable, Output, asks, at, bind, check, read_all
from joulefleet_plugins.interfaces.quantity import BadOutput

PERIOD_NS = 5_000_000_000
NOW_NS = 1_795_384_800_000_000_000

IPMI = """
    Instantaneous power reading:                  2578 Watts
    Minimum during sampling period:               2118 Watts
    Power reading state is:                   activated
"""
SERVER = {"id": "bmc", "kind": "server", "pattern": r"Instantaneous power reading:\s+(?P<power_w>\d+ Watts)"}
CARDS = {
    "id": "card",
    "each": "/devices",
    "json": {"id": "/uuid", "power_w": "/power", "temperature_c": "/temperature", "hw_model": "/name"},
}


def table(**keys: Any) -> MeterTable:
    made = typed({"max_power_w": 5_000.0, **keys}, MeterTable, "test: meters[0]")
    check([made], "test")
    return made


def output(document: Any) -> Output:
    return Output(json.dumps(document).encode())


def bound(keys: dict[str, Any], first: Output | None = None) -> tuple[Bound, ...]:
    return bind([table(**keys)], first, PERIOD_NS)


def read(keys: dict[str, Any], told: Output, first: Output | None = None, now_ns: int = NOW_NS) -> list[Reading]:
    return read_all(bound(keys, first), told, now_ns)


def code(readings: list[Reading]) -> str:
    (one,) = readings
    assert isinstance(one, Failure), one
    return one.code


def meters(found: tuple[Bound, ...]) -> list[Meter]:
    return [meter for one in found for meter in one.meters.values()]


def test_a_pattern_finds_the_power_of_a_server() -> None:
    assert read(SERVER, Output(IPMI.encode())) == [MeterReading(meter="bmc", power_mw=2_578_000)]


def test_a_server_by_its_declaration() -> None:
    assert meters(bound({**SERVER, "basis": "BMC"})) == [
        Meter(
            id="bmc",
            kind="server",
            grade="integrated",
            sensor_class="platform",
            refresh_ns=PERIOD_NS,
            period_ns=PERIOD_NS,
            max_power_mw=5_000_000,
            basis="BMC",
        )
    ]


def test_what_is_not_measured_says_so() -> None:
    (meter,) = meters(bound({**SERVER, "grade": "modelled", "basis": "the vendor's estimate"}))
    assert (meter.grade, meter.sensor_class, meter.basis) == ("modelled", "modelled", "the vendor's estimate")


def two_cards(first: Any = "43.9W", second: Any = "6.1W") -> Output:
    card = {"name": "Chip", "temperature": "38C"}
    return output({"devices": [{**card, "uuid": "A", "power": first}, {**card, "uuid": "B", "power": second}]})


def test_each_thing_in_a_list_is_a_meter() -> None:
    assert read(CARDS, two_cards(), two_cards()) == [
        MeterReading(meter="card-A", power_mw=43_900, gauges={"temperature_c": 38.0}),
        MeterReading(meter="card-B", power_mw=6_100, gauges={"temperature_c": 38.0}),
    ]
    assert [meter.hw_model for meter in meters(bound(CARDS, two_cards()))] == ["Chip", "Chip"]


def test_each_thing_in_an_object_is_a_meter() -> None:
    keys = {"id": "rail", "each": "/rails", "json": {"id": "/n", "power_w": "/w"}}
    told = output({"rails": {"x": {"n": 1, "w": 5}, "y": {"n": 2, "w": 6}}})
    assert [one.power_mw for one in read(keys, told, told) if isinstance(one, MeterReading)] == [5_000, 6_000]


def test_the_whole_document_may_be_the_list() -> None:
    keys = {"id": "card", "each": "", "json": {"id": "/n", "power_w": "/w"}}
    told = output([{"n": 1, "w": 5}, {"n": 2, "w": 6}])
    assert [one.id for one in meters(bound(keys, told))] == ["card-1", "card-2"]
    for other in ({}, [], 5, "text", {"n": 1, "w": 5}, None):
        with pytest.raises(BadOutput):
            bound(keys, output(other))


def test_a_card_that_fails_or_goes_hurts_no_other() -> None:
    assert read(CARDS, two_cards(second="N/A"), two_cards())[0] == read(CARDS, two_cards(), two_cards())[0]
    assert code(read(CARDS, two_cards(second="N/A"), two_cards())[1:]) == "no_value"
    gone = output({"devices": [{"uuid": "A", "power": 1}]})
    assert code(read(CARDS, gone, two_cards())[1:]) == "no_value"


def test_a_card_that_is_told_twice_is_not_guessed() -> None:
    twice = output({"devices": [{"uuid": "A", "power": 1}, {"uuid": "A", "power": 900}]})
    assert code(read({**CARDS, "ids": ["A"]}, twice)) == "ambiguous"
    assert code(read(SERVER, Output((IPMI + IPMI).encode()))) == "ambiguous"


def test_ids_of_the_config_need_no_first_output() -> None:
    assert not asks([table(**CARDS, ids=["A", "B"])])
    assert asks([table(**CARDS)])
    assert [one.id for one in meters(bound({**CARDS, "ids": ["A"]}))] == ["card-A"]


def test_the_rated_power_may_be_told() -> None:
    keys = {"id": "g", "pattern": r"(?P<id>\d), (?P<power_w>\d+ W), (?P<power_limit_w>\S+ W?)", "max_power_w": None}
    first = Output(b"0, 226 W, 850 W\n")
    (meter,) = meters(bound(keys, first))
    assert (meter.max_power_mw, meter.power_limit_mw) == (850_000, 850_000)
    with pytest.raises(BadOutput, match="max_power_w"):
        bound(keys, Output(b"0, 226 W, N/A \n"))


def test_counter_and_power_stand_side_by_side() -> None:
    keys = {"id": "c", "json": {"energy_kwh": "/e", "power_w": "/p", "epoch": "/boot"}}
    (meter,) = meters(bound(keys))
    assert (meter.grade, meter.resolution_uj) == ("counter", 3_600_000_000_000)
    told = output({"e": 12.5, "p": 300, "boot": "b7"})
    expected = MeterReading(meter="c", counter_uj=45_000_000_000_000, power_mw=300_000, epoch="b7")
    assert read(keys, told) == [expected]
    without_power = MeterReading(meter="c", counter_uj=45_000_000_000_000)
    for power in ("N/A", 0, -5, None):
        assert read(keys, output({"e": 12.5, "p": power})) == [without_power]
    for energy in ("N/A", -1, None):
        assert isinstance(read(keys, output({"e": energy, "p": 300}))[0], Failure)


@pytest.mark.parametrize(
    ("power", "expected"),
    [(0, "no_value"), ("0.0 W", "no_value"), (None, "no_value"), (-5, "implausible"), (1e300, "implausible")],
)
def test_what_is_no_power_becomes_none(power: Any, expected: str) -> None:
    assert code(read({"id": "c", "json": {"power_w": "/p"}}, output({"p": power, "other": 1}))) == expected


def test_why_there_is_no_power_is_said() -> None:
    keys = {"id": "c", "json": {"power_w": "/p"}}
    (zero,), (elsewhere,) = read(keys, output({"p": 0})), read(keys, output({"q": 5}))
    assert isinstance(zero, Failure) and zero.detail == "the output tells no power, or 0 W"
    assert isinstance(elsewhere, Failure) and "at the place that its `json` or `pattern` names" in elsewhere.detail


def test_an_own_time_tells_the_age() -> None:
    keys = {"id": "c", "json": {"power_w": "/p", "time_s": "/t"}}
    told = output({"p": 5, "t": 1_795_384_800 - 3})
    assert read(keys, told) == [MeterReading(meter="c", power_mw=5_000, age_ns=3_000_000_000)]
    assert code(read(keys, told, now_ns=NOW_NS + 60_000_000_000)) == "stale"
    assert code(read(keys, told, now_ns=NOW_NS - 60_000_000_000)) == "stale"
    assert code(read(keys, output({"p": 5, "t": 0}))) == "stale"
    soon = output({"p": 5, "t": 1_795_384_800 + 2})
    assert read(keys, soon) == [MeterReading(meter="c", power_mw=5_000)]


@pytest.mark.parametrize("text", ["", "no JSON", "{", "<html>", '{"p": NaN}', "[" * 100_000])
def test_what_is_no_json_is_a_failure_of_all(text: str) -> None:
    assert code(read({"id": "c", "json": {"power_w": "/p"}}, Output(text.encode()))) == "malformed"


def test_json_may_stand_below_a_banner() -> None:
    told = Output(b'vendor-smi 1.2 [beta]\n WARNING: {old} driver\n{"p": 7}\n')
    assert read({"id": "c", "json": {"power_w": "/p"}}, told) == [MeterReading(meter="c", power_mw=7_000)]


@pytest.mark.parametrize(
    ("pointer", "expected"),
    [
        ("", {"a/b": [1, {"~": 2}]}),
        ("/a~1b/0", 1),
        ("/a~1b/1/~0", 2),
        ("/a~1b/2", None),
        ("/x/y", None),
        ("/a~1b/-", None),
    ],
)
def test_pointers(pointer: str, expected: Any) -> None:
    assert at({"a/b": [1, {"~": 2}]}, pointer) == expected


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "either `json` pointers or a `pattern`"),
        ({"json": {"power_w": "/p"}, "pattern": "(?P<power_w>.)"}, "either"),
        ({"pattern": "(?P<power_w>"}, "no regular expression"),
        ({"pattern": "(?P<watts>.)"}, "name of a power or an energy"),
        ({"json": {"power_w": "/p", "power_mw": "/q"}}, "two units: power_mw, power_w"),
        ({"json": {"power_w": "p"}}, 'begins with "/"'),
        ({"json": {"power_w": "/p"}, "ids": ["a"]}, "no `id`"),
        ({"json": {"power_w": "/p"}, "max_power_w": None}, "the most that it can draw"),
        ({"pattern": "(?P<power_w>.)", "each": "/x"}, "pointer"),
        ({"pattern": "(?P<power_w>.)", "grade": "modelled"}, "say what a figure of grade `modelled` rests on"),
        ({"pattern": "(?P<power_w>.)", "grade": "counter"}, "grade"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=r"test: meters\[0\]") as raised:
        table(id="c", **keys)
    assert said in str(raised.value)


def test_tables_need_ids_of_their_own() -> None:
    with pytest.raises(ConfigError, match="one table at least"):
        check([], "test")
    with pytest.raises(ConfigError, match="bear one id"):
        check([table(**SERVER), table(**SERVER)], "test")
    clash = [table(id="c-1", json={"power_w": "/p"}), table(id="c", json={"id": "/i", "power_w": "/p"}, ids=["1"])]
    with pytest.raises(BadOutput, match="c-1"):
        bind(clash, None, PERIOD_NS)


def test_nothing_found_at_the_first_time_is_absence() -> None:
    with pytest.raises(BadOutput) as raised:
        bound(CARDS, output({"devices": [{"power": 3}]}))
    assert raised.value.code == "absent"


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@given(json_values, json_values, json_values)
def test_whatever_a_tool_prints_each_meter_has_a_reading_or_a_reason(power: Any, uuid: Any, rest: Any) -> None:
    told = output({"devices": [{"uuid": uuid, "power": power}, rest], "more": rest})
    readings = read({**CARDS, "ids": ["A", "B"]}, told)
    assert [one.subject if isinstance(one, Failure) else getattr(one, "meter", "") for one in readings] == [
        "card-A",
        "card-B",
    ]
    for one in readings:
        assert isinstance(one, Failure) or (isinstance(one, MeterReading) and (one.power_mw or 0) > 0)
