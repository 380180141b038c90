"""The table of power distribution units: what each makes of the figures that its MIB tells."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.units import NS_PER_S, mw_ns_to_uj, w_to_mw, wh_to_uj
from joulefleet_plugins.meters.snmp_pdus import PDUS, Fed, NotFed, Pdu, fed

SENSOR = "1.3.6.1.2.1.99.1.1.1"
RARITAN = "1.3.6.1.4.1.13742.6"


def answers_of(pdu: Pdu, index: str, power: object, energy: object) -> dict[str, object]:
    answers: dict[str, object] = {pdu.power.oid.format(index): power}
    if pdu.energy is not None:
        answers[pdu.energy.oid.format(index)] = energy
    return answers


@pytest.mark.parametrize(
    ("name", "index", "oid", "told", "watts"),
    [
        ("apc_device", "1", "1.3.6.1.4.1.318.1.1.26.4.3.1.5.1", 123, 1_230),
        ("apc_outlet", "7", "1.3.6.1.4.1.318.1.1.26.9.4.3.1.7.7", 412, 412),
        ("eaton_outlet", "0.2", "1.3.6.1.4.1.534.6.6.7.6.5.1.3.0.2", 177, 177),
        ("eaton_inlet", "0.1", "1.3.6.1.4.1.534.6.6.7.3.5.1.4.0.1", 716, 716),
        ("geist_outlet", "7", "1.3.6.1.4.1.21239.5.2.3.6.1.12.7", 50, 50),
        ("geist_device", "1", "1.3.6.1.4.1.21239.5.2.3.1.1.9.1", 5_000, 5_000),
        ("raritan_px1_outlet", "3", "1.3.6.1.4.1.13742.4.1.2.2.1.7.3", 1_475, 1_475),
        ("sentry3_outlet", "1.1.7", "1.3.6.1.4.1.1718.3.2.3.1.14.1.1.7", 690, 690),
        ("sentry3_inlet", "1.1", "1.3.6.1.4.1.1718.3.2.2.1.12.1.1", 690, 690),
        ("sentry4_outlet", "1.1.1", "1.3.6.1.4.1.1718.4.1.8.3.1.7.1.1.1", 690, 690),
        ("sentry4_inlet", "1.1", "1.3.6.1.4.1.1718.4.1.3.3.1.3.1.1", 690, 690),
    ],
)
def test_the_power_of_each_make(name: str, index: str, oid: str, told: int, watts: int) -> None:
    assert oid in PDUS[name].oids(index)
    assert fed(PDUS[name], index, {oid: told}).power_mw == w_to_mw(watts)


def test_energy_that_steps_by_tenths_of_a_kilowatt_hour() -> None:
    pdu = PDUS["apc_device"]
    answers = answers_of(pdu, "1", 123, 45_678) | {"1.3.6.1.4.1.318.1.1.26.4.3.1.10.1": b"05/30/2011 00:12:17"}
    told = fed(pdu, "1", answers)
    assert (told.counter_uj, told.step_uj) == (wh_to_uj(4_567_800), 360_000 * 10**6)
    assert told.since == "05/30/2011 00:12:17"


def raritan(power: object, energy: object, digits: int = 1, available: object = 1) -> dict[str, object]:
    return {
        f"{RARITAN}.5.4.3.1.4.1.7.5": power,
        f"{RARITAN}.5.4.3.1.4.1.7.8": energy,
        f"{RARITAN}.5.4.3.1.2.1.7.5": available,
        f"{RARITAN}.5.4.3.1.5.1.7.5": 1_700_000_000,
        f"{RARITAN}.3.5.4.1.7.1.7.5": digits,
        f"{RARITAN}.3.5.4.1.7.1.7.8": digits,
    }


def test_decimal_places_that_the_unit_tells_apart() -> None:
    told = fed(PDUS["raritan_outlet"], "1.7", raritan(5_325, 12_345))
    assert told == Fed(w_to_mw(532.5), wh_to_uj(1_234.5), wh_to_uj(0.1), "", "1700000000")
    assert set(raritan(1, 1)) == set(PDUS["raritan_outlet"].oids("1.7"))


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({}, "no_such_outlet"),
        (raritan(-1, 0), "not_measured"),
        (raritan(500, 0, available=2), "not_measured"),
        (raritan(b"500", 0), "not_a_number"),
        (raritan(500.0, 0), "not_a_number"),
        (raritan(True, 0), "not_a_number"),
        (raritan(500, 0, digits=400), "not_a_number"),
        (raritan(None, 0), "no_such_outlet"),
    ],
)
def test_what_is_no_power_is_none(answers: dict[str, object], code: str) -> None:
    with pytest.raises(NotFed) as refused:
        fed(PDUS["raritan_outlet"], "1.7", answers)
    assert refused.value.code == code


def test_power_without_energy_is_power() -> None:
    pdu = PDUS["sentry4_outlet"]
    assert fed(pdu, "1.1.1", answers_of(pdu, "1.1.1", 100, -1)).counter_uj is None
    assert fed(pdu, "1.1.1", {pdu.power.oid.format("1.1.1"): 100}).counter_uj is None


def sensor(value: int, scale: int = 9, precision: int = 0, kind: int = 6, status: int = 1) -> dict[str, object]:
    columns = {1: kind, 2: scale, 3: precision, 4: value, 5: status, 7: 4_711}
    return {f"{SENSOR}.{column}.1001": told for column, told in columns.items()}


@pytest.mark.parametrize(
    ("told", "milliwatts"),
    [
        (sensor(1_234), 1_234_000),
        (sensor(1_234, precision=1), 123_400),
        (sensor(1_234, scale=8), 1_234),
        (sensor(12, scale=10), 12_000_000),
        (sensor(123, scale=10, precision=2), 1_230_000),
    ],
)
def test_a_sensor_with_scale_and_precision(told: dict[str, object], milliwatts: int) -> None:
    assert fed(PDUS["entity_sensor"], "1001", told).power_mw == milliwatts


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (sensor(1, kind=8), "no_power_sensor"),
        (sensor(1, status=2), "not_measured"),
        (sensor(1, scale=1), "not_a_number"),
        (sensor(1, scale=17), "not_a_number"),
    ],
)
def test_a_sensor_that_is_no_watts_or_does_not_work(told: dict[str, object], code: str) -> None:
    with pytest.raises(NotFed) as refused:
        fed(PDUS["entity_sensor"], "1001", told)
    assert refused.value.code == code


@given(st.sampled_from(sorted(set(PDUS) - {"entity_sensor"})), st.lists(st.integers(0, 2**31 - 1), min_size=2))
def test_a_counter_never_runs_back_and_steps_as_it_says(name: str, told: list[int]) -> None:
    pdu, told = PDUS[name], sorted(told)
    fixed: dict[str, object] = dict.fromkeys(pdu.oids("1.7"), 1)
    found = [fed(pdu, "1.7", fixed | answers_of(pdu, "1.7", 1, value)) for value in told]
    counters = [one.counter_uj for one in found]
    assert None not in counters
    for earlier, later, before, after in zip(counters, counters[1:], told, told[1:], strict=False):
        assert later is not None
        assert earlier is not None
        assert later - earlier == (after - before) * found[0].step_uj


def test_the_table_asks_for_numeric_oids_and_believes_no_more_than_a_plug_can_give() -> None:
    for pdu in PDUS.values():
        assert all(re.fullmatch(r"1\.3\.6\.1(\.\d+)+", oid) for oid in pdu.oids("1.7"))
        assert pdu.power.worth <= pdu.max_mw <= w_to_mw(70_000)
        assert pdu.energy is None or pdu.energy.worth <= mw_ns_to_uj(w_to_mw(1_000) * 3_600 * NS_PER_S)
