"""Power and energy in Redfish resources: what they say, and when that is none."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_plugins.meters.redfish_route import NoValue, Place, Route, Told, at, instant, positive, told

METRICS, TOTAL = "/redfish/v1/Chassis/1/EnvironmentMetrics", "/redfish/v1/Chassis/1/Sensors/Total"
POWER = "/redfish/v1/Chassis/1/Power"
WATTS = Route(name="environment", power=(Place(METRICS, ("PowerWatts", "Reading")),))
BOTH = Route(
    name="environment",
    power=(Place(METRICS, ("PowerWatts", "Reading")),),
    energy=Place(METRICS, ("EnergyJoules", "Reading")),
)
SUPPLIES = Route(
    name="power_supplies",
    power=tuple(Place(POWER, ("PowerSupplies", k, "PowerInputWatts")) for k in (0, 1)),
)


def metrics(**readings: Any) -> dict[str, dict[str, Any]]:
    return {METRICS: {name: {"Reading": value} for name, value in readings.items()}}


def supplies(*found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {POWER: {"PowerSupplies": list(found)}}


def code_of(route: Route, documents: dict[str, Any]) -> str:
    with pytest.raises(NoValue) as raised:
        told(route, documents)
    assert str(raised.value)
    return raised.value.code


def test_watts_and_joules_are_told_together() -> None:
    said = told(BOTH, metrics(PowerWatts=350.25, EnergyJoules=230_239_128.79))
    assert (said.power_mw, said.counter_uj) == (350_250, 230_239_128_790_000)


def test_kilowatt_hours_are_a_counter_too() -> None:
    route = Route(name="environment", energy=Place(METRICS, ("EnergykWh", "Reading")), unit="kWh")
    assert told(route, metrics(EnergykWh=2)).counter_uj == 7_200_000_000_000


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "no_value"),
        (0.0, "no_value"),
        (None, "no_value"),
        ("N/A", "no_value"),
        ("350", "malformed"),
        (True, "malformed"),
        ([350], "malformed"),
        (float("nan"), "malformed"),
        (-1, "implausible"),
        (float("inf"), "implausible"),
        (10**400, "implausible"),
        (10**9, "implausible"),
    ],
)
def test_what_is_no_power_is_none_and_says_why(value: Any, code: str) -> None:
    assert code_of(WATTS, metrics(PowerWatts=value)) == code


@pytest.mark.parametrize(
    ("value", "code"),
    [(0, "no_value"), (None, "no_value"), ("5", "malformed"), (-5, "implausible"), (1e30, "implausible")],
)
def test_what_is_no_energy_is_none_whatever_the_power(value: Any, code: str) -> None:
    assert code_of(BOTH, metrics(PowerWatts=350, EnergyJoules=value)) == code


@pytest.mark.parametrize(
    "documents", [{}, {METRICS: {}}, {METRICS: {"PowerWatts": None}}, {METRICS: {"PowerWatts": 7}}]
)
def test_a_resource_without_the_number_tells_nothing(documents: dict[str, Any]) -> None:
    assert code_of(WATTS, documents) == "no_value"


def test_a_counter_goes_on_without_its_gauge() -> None:
    said = told(BOTH, metrics(PowerWatts=0, EnergyJoules=5))
    assert (said.power_mw, said.counter_uj) == (None, 5_000_000)


def test_supplies_are_added_up() -> None:
    assert told(SUPPLIES, supplies({"PowerInputWatts": 180.5}, {"PowerInputWatts": 170})).power_mw == 350_500


@pytest.mark.parametrize(
    "second",
    [
        {"PowerInputWatts": None},
        {"PowerInputWatts": 0},
        {"PowerInputWatts": 0, "PowerOutputWatts": 160},
        {"PowerInputWatts": 0, "PowerOutputWatts": 0, "LastPowerOutputWatts": 160},
        {},
    ],
)
def test_supplies_are_one_meter_and_absent_if_one_of_them_is(second: dict[str, Any]) -> None:
    assert code_of(SUPPLIES, supplies({"PowerInputWatts": 180}, second)) == "no_value"


def test_a_spare_supply_that_gives_nothing_takes_nothing() -> None:
    spare = {"PowerInputWatts": 0, "PowerOutputWatts": 0}
    assert told(SUPPLIES, supplies({"PowerInputWatts": 342}, spare)).power_mw == 342_000
    assert code_of(SUPPLIES, supplies(spare, spare)) == "no_value"


@pytest.mark.parametrize("state", ["Absent", "Disabled", "UnavailableOffline"])
def test_what_a_sensor_that_is_off_saw_last_is_no_value(state: str) -> None:
    document = {TOTAL: {"Reading": 350, "Status": {"State": state}}}
    assert code_of(Route(name="sensors", power=(Place(TOTAL, ("Reading",)),)), document) == "no_value"
    assert code_of(Route(name="sensors", energy=Place(TOTAL, ("Reading",))), document) == "no_value"


def test_a_sensor_tells_when_it_measured() -> None:
    route = Route(name="sensors", power=(Place(TOTAL, ("Reading",)),))
    said = told(route, {TOTAL: {"Reading": 350, "ReadingTime": "2026-03-01T13:00:00+01:00"}})
    assert said.stamp == datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["1970-01-01T00:00:07Z", "0000-00-00", "2026-03-01T12:00:00", "now", "", None, 7, "2009-12-31T23:59:59Z"]
)
def test_a_time_of_a_bmc_without_a_clock_is_none(text: Any) -> None:
    assert instant(text) is None


def test_a_counter_that_is_set_to_0_begins_another_life_and_one_for_a_lifetime_does_not() -> None:
    readings = {"Reading": 5, "LifetimeReading": 900, "SensorResetTime": "2026-01-01T00:00:00Z"}
    document = {METRICS: {"EnergyJoules": readings}}
    route = Route(name="environment", energy=Place(METRICS, ("EnergyJoules", "Reading")))
    assert told(route, document).epoch == "2026-01-01T00:00:00Z"
    lifetime = Route(name="environment", energy=Place(METRICS, ("EnergyJoules", "LifetimeReading")))
    assert (told(lifetime, document).epoch, told(lifetime, document).counter_uj) == ("", 900_000_000)


def test_the_others_are_all_other_numbers_of_the_same_resources() -> None:
    first = told(WATTS, metrics(PowerWatts=350, TemperatureCelsius=39))
    assert first.others == told(WATTS, metrics(PowerWatts=351, TemperatureCelsius=39)).others
    assert first.others != told(WATTS, metrics(PowerWatts=350, TemperatureCelsius=40)).others
    elsewhere = metrics(PowerWatts=350, TemperatureCelsius=39) | {POWER: {"Volts": 12}}
    assert first.others == told(WATTS, elsewhere).others


def test_resources_are_asked_once_each() -> None:
    assert SUPPLIES.resources == (POWER,)
    assert BOTH.resources == (METRICS,)


def test_the_way_to_a_number_ends_where_it_is_not() -> None:
    documents = {METRICS: {"a": [{"b": 1}]}}
    assert at(documents, METRICS, ("a", 0, "b")) == 1
    assert [at(documents, METRICS, keys) for keys in (("a", 1), ("a", "b"), ("c",), ("a", 0, "b", "c"))] == [None] * 4


def test_only_a_number_above_zero_is_positive() -> None:
    assert [positive(value) for value in (1, 0.5, 0, -1, True, "1", None)] == [1, 0.5, None, None, None, None, None]


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
trees = st.recursive(
    values,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["PowerWatts", "EnergyJoules", "Reading", "ReadingTime"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["PowerWatts", "EnergyJoules", "ReadingTime"]), trees))
def test_whatever_a_resource_holds_there_is_a_positive_value_or_a_reason(document: dict[str, Any]) -> None:
    for route in (WATTS, BOTH):
        try:
            said = told(route, {METRICS: document})
        except NoValue as error:
            assert error.code
        else:
            assert isinstance(said, Told)
            assert said.power_mw is None or 0 <= said.power_mw <= 10_000_000_000
            assert said.power_mw or said.counter_uj
