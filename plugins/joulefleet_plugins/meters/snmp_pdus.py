"""Where each make of power distribution unit tells by SNMP what an outlet or an inlet draws, and how to read it.

A row of the table is a make; in its OIDs `{}` stands for the index of the outlet, the inlet or the sensor, as the MIB
counts them (`7`, `1.7`, `1.1.7`). Names of objects and units are those of the vendors' MIBs; `-1` means "not measured
here" in all of them.
"""

from collections.abc import Mapping
from typing import NamedTuple

from joulefleet.units import s_to_ns, w_to_mw, wh_to_uj

OUTLET_MW = w_to_mw(5_000)
"""More than a single outlet can give: 20 A at 240 V."""
INLET_MW = w_to_mw(70_000)
"""More than a single inlet can take: 100 A on three phases of 400 V."""
MOST_DIGITS = 9
"""Decimal places that a sensor may tell; more is rubbish."""

TENTH_KWH_UJ = wh_to_uj(100)
WH_UJ = wh_to_uj(1)


class NotFed(Exception):
    """A feed of which it cannot be told what it draws, and why."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(code, detail)


class Column(NamedTuple):
    """One figure of an outlet: where it is, and what one of it is worth."""

    oid: str
    worth: int
    """Milliwatts or microjoules."""
    digits: str = ""
    """OID of the number of decimal places, where these are told apart."""
    scale: str = ""
    """OID of the power of 1,000, where this is told apart (RFC 3433: 9 is 1, 8 is milli, 10 is kilo)."""


class Must(NamedTuple):
    """A figure that has to be this, or the others mean nothing."""

    oid: str
    value: int
    code: str


class Pdu(NamedTuple):
    """A make of unit, at its outlets or at its inlets."""

    power: Column
    max_mw: int
    energy: Column | None = None
    since: str = ""
    """OID of when the energy counter was last reset."""
    stamp: str = ""
    """OID of when the power was measured, in any unit: only that it moves is looked at; 0 where it is not told."""
    refresh_ns: int = s_to_ns(5)
    """Units measure every second to every five; none of them tells how often."""
    musts: tuple[Must, ...] = ()

    def oids(self, index: str) -> list[str]:
        """All that has to be asked of this outlet or inlet."""
        columns = [one for one in (self.power, self.energy) if one is not None]
        found = [oid for one in columns for oid in (one.oid, one.digits, one.scale)]
        found += [self.since, self.stamp, *(must.oid for must in self.musts)]
        return [oid.format(index) for oid in found if oid]


class Fed(NamedTuple):
    """What one feed told."""

    power_mw: int
    counter_uj: int | None = None
    step_uj: int = 0
    """Smallest step of the counter."""
    since: str = ""
    stamp: str = ""
    age_ns: int = 0
    """For how long its stamp has stood still."""


Answers = Mapping[str, object]
"""Values by OID; what the unit does not have is not among them."""


def fed(pdu: Pdu, index: str, answers: Answers) -> Fed:
    """What an outlet or inlet draws and has drawn. Raises NotFed."""
    power = _figure(pdu.power, index, answers)
    if power is None:
        raise NotFed("no_such_outlet", f"the unit has no {pdu.power.oid.format(index)}: check `pdu` and `outlet`")
    for must in pdu.musts:
        if _number(answers, must.oid.format(index)) != must.value:
            raise NotFed(must.code, f"{must.oid.format(index)} is not {must.value}")
    if power[0] < 0:
        raise NotFed("not_measured", f"{pdu.power.oid.format(index)} is {power[0]}: the unit does not measure there")
    energy = _figure(pdu.energy, index, answers) if pdu.energy else None
    counter_uj, step_uj = energy if energy and energy[0] >= 0 else (None, 0)
    return Fed(power[0], counter_uj, step_uj, _text(answers, pdu.since, index), _text(answers, pdu.stamp, index))


def _figure(column: Column, index: str, answers: Answers) -> tuple[int, int] | None:
    """Value and smallest step, in the column's own milliwatts or microjoules; None where the unit has none."""
    value = _number(answers, column.oid.format(index))
    if value is None:
        return None
    places = _number(answers, column.digits.format(index)) if column.digits else 0
    thousands = _number(answers, column.scale.format(index)) if column.scale else 9
    if places is None or thousands is None or not 0 <= places <= MOST_DIGITS or not 7 <= thousands <= 11:
        raise NotFed("not_a_number", f"{column.oid.format(index)} has no decimal places or scale that make sense")
    up, down = column.worth * 10 ** max(3 * (thousands - 9), 0), 10 ** (places + max(3 * (9 - thousands), 0))
    return value * up // down, max(up // down, 1)


def _number(answers: Answers, oid: str) -> int | None:
    value = answers.get(oid)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise NotFed("not_a_number", f"{oid} is no integer")
    return value


def _text(answers: Answers, oid: str, index: str) -> str:
    value = answers.get(oid.format(index)) if oid else None
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _raritan(values: str, settings: str, max_mw: int) -> Pdu:
    """PDU2-MIB: a row by sensor type, 5 active power and 8 active energy; decimal places stand among the settings."""
    return Pdu(
        power=Column(f"{values}.4.{{}}.5", w_to_mw(1), f"{settings}.7.{{}}.5"),
        energy=Column(f"{values}.4.{{}}.8", WH_UJ, f"{settings}.7.{{}}.8"),
        stamp=f"{values}.5.{{}}.5",
        musts=(Must(f"{values}.2.{{}}.5", 1, "not_measured"),),
        max_mw=max_mw,
    )


def _simple(base: str, max_mw: int, power: tuple[int, int], energy: tuple[int, int], since: int = 0) -> Pdu:
    """A table with one row by outlet or inlet: number of each column, and what one of it is worth."""
    return Pdu(
        power=Column(f"{base}.{power[0]}.{{}}", power[1]),
        energy=Column(f"{base}.{energy[0]}.{{}}", energy[1]),
        since=f"{base}.{since}.{{}}" if since else "",
        max_mw=max_mw,
    )


ENTERPRISES = "1.3.6.1.4.1"
SENSOR = "1.3.6.1.2.1.99.1.1.1"
"""entPhySensorEntry of ENTITY-SENSOR-MIB, RFC 3433."""
WATTS, OK = 6, 1

PDUS: dict[str, Pdu] = {
    # PowerNet-MIB, rPDU2: outlets in W, the device in 0.01 kW, energy in 0.1 kWh
    "apc_outlet": _simple(f"{ENTERPRISES}.318.1.1.26.9.4.3.1", OUTLET_MW, (7, w_to_mw(1)), (11, TENTH_KWH_UJ)),
    "apc_device": _simple(f"{ENTERPRISES}.318.1.1.26.4.3.1", INLET_MW, (5, w_to_mw(10)), (9, TENTH_KWH_UJ), since=10),
    # EATON-EPDU-MIB: outletPowerTable and inputTotalPowerTable, indexed by unit and outlet (`0.7`)
    "eaton_outlet": _simple(f"{ENTERPRISES}.534.6.6.7.6.5.1", OUTLET_MW, (3, w_to_mw(1)), (4, WH_UJ), since=5),
    "eaton_inlet": _simple(f"{ENTERPRISES}.534.6.6.7.3.5.1", INLET_MW, (4, w_to_mw(1)), (5, WH_UJ), since=6),
    # GEIST-V5-MIB, Vertiv too: pduOutletMeterTable and pduMainTable
    "geist_outlet": _simple(f"{ENTERPRISES}.21239.5.2.3.6.1", OUTLET_MW, (12, w_to_mw(1)), (15, WH_UJ)),
    "geist_device": _simple(f"{ENTERPRISES}.21239.5.2.3.1.1", INLET_MW, (9, w_to_mw(1)), (12, WH_UJ)),
    # PDU2-MIB (PX2, PX3, Legrand), indexed by unit and outlet or inlet (`1.7`)
    "raritan_outlet": _raritan(f"{ENTERPRISES}.13742.6.5.4.3.1", f"{ENTERPRISES}.13742.6.3.5.4.1", OUTLET_MW),
    "raritan_inlet": _raritan(f"{ENTERPRISES}.13742.6.5.2.3.1", f"{ENTERPRISES}.13742.6.3.3.4.1", INLET_MW),
    # PDU-MIB (PX1): outletTable
    "raritan_px1_outlet": _simple(f"{ENTERPRISES}.13742.4.1.2.2.1", OUTLET_MW, (7, w_to_mw(1)), (31, WH_UJ)),
    # Sentry3-MIB: outletTable and infeedTable (`1.1.7`, `1.1`)
    "sentry3_outlet": _simple(f"{ENTERPRISES}.1718.3.2.3.1", OUTLET_MW, (14, w_to_mw(1)), (18, WH_UJ)),
    "sentry3_inlet": _simple(f"{ENTERPRISES}.1718.3.2.2.1", INLET_MW, (12, w_to_mw(1)), (16, TENTH_KWH_UJ)),
    # Sentry4-MIB: st4OutletMonitorTable and st4InputCordMonitorTable
    "sentry4_outlet": _simple(f"{ENTERPRISES}.1718.4.1.8.3.1", OUTLET_MW, (7, w_to_mw(1)), (14, WH_UJ)),
    "sentry4_inlet": _simple(f"{ENTERPRISES}.1718.4.1.3.3.1", INLET_MW, (3, w_to_mw(1)), (10, TENTH_KWH_UJ)),
    "entity_sensor": Pdu(
        power=Column(f"{SENSOR}.4.{{}}", w_to_mw(1), f"{SENSOR}.3.{{}}", f"{SENSOR}.2.{{}}"),
        stamp=f"{SENSOR}.7.{{}}",
        musts=(Must(f"{SENSOR}.1.{{}}", WATTS, "no_power_sensor"), Must(f"{SENSOR}.5.{{}}", OK, "not_measured")),
        # Sensors of any make, behind any agent: RFC 3433 asks for no rate.
        refresh_ns=s_to_ns(30),
        max_mw=INLET_MW,
    ),
}
"""By the name that the configuration calls them. A make that differs in numbers only is one more row."""
