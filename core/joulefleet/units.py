"""The only place where a unit is turned into another: energy in integer microjoules, time in integer nanoseconds."""

from fractions import Fraction

NS_PER_S = 1_000_000_000
UJ_PER_J = 1_000_000
J_PER_WH = 3_600


def s_to_ns(seconds: float) -> int:
    """Seconds to nanoseconds, rounded to the nearest."""
    return round(seconds * NS_PER_S)


def ns_to_s(nanoseconds: int) -> float:
    """Nanoseconds to seconds."""
    return nanoseconds / NS_PER_S


def ms_to_ns(milliseconds: float) -> int:
    """Milliseconds to nanoseconds, rounded to the nearest."""
    return round(milliseconds * 1_000_000)


def ns_to_ms(nanoseconds: float) -> float:
    """Nanoseconds to milliseconds."""
    return nanoseconds / 1_000_000


def s_to_us(seconds: float) -> int:
    """Seconds to microseconds, rounded to the nearest."""
    return round(seconds * 1_000_000)


def ns_to_us(nanoseconds: int) -> int:
    """Nanoseconds to whole microseconds, rounded down."""
    return nanoseconds // 1_000


def us_to_ns(microseconds: int) -> int:
    """Microseconds to nanoseconds."""
    return microseconds * 1_000


def minutes_to_s(minutes: float) -> float:
    """Minutes to seconds."""
    return minutes * 60


def j_to_uj(joules: float) -> int:
    """Joules to microjoules, rounded to the nearest."""
    return round(joules * UJ_PER_J)


def uj_to_j(microjoules: int) -> float:
    """Microjoules to joules."""
    return microjoules / UJ_PER_J


def mj_to_uj(millijoules: int) -> int:
    """Millijoules (NVML, HLML) to microjoules, exact."""
    return millijoules * 1_000


def steps_to_uj(steps: int, step_j: Fraction) -> int:
    """Steps of a counter, each of so many joules, to whole microjoules, rounded down."""
    return steps * step_j.numerator * UJ_PER_J // step_j.denominator


def wh_to_uj(watt_hours: float) -> int:
    """Watt-hours to microjoules, rounded to the nearest."""
    return round(watt_hours * J_PER_WH * UJ_PER_J)


def kwh_to_uj(kilowatt_hours: float) -> int:
    """Kilowatt-hours to microjoules, rounded to the nearest."""
    return round(kilowatt_hours * J_PER_WH * 1_000 * UJ_PER_J)


def w_to_mw(watts: float) -> int:
    """Watts to milliwatts, rounded to the nearest."""
    return round(watts * 1_000)


def kw_to_mw(kilowatts: float) -> int:
    """Kilowatts to milliwatts, rounded to the nearest."""
    return round(kilowatts * 1_000_000)


def mw_to_w(milliwatts: float) -> float:
    """Milliwatts to watts."""
    return milliwatts / 1_000


def mw_ns_to_uj(milliwatt_nanoseconds: int) -> int:
    """Milliwatt-nanoseconds (picojoules) to whole microjoules, rounded down."""
    return milliwatt_nanoseconds // 1_000_000


def uj_to_mw_ns(microjoules: int) -> int:
    """Microjoules to milliwatt-nanoseconds (picojoules), exact."""
    return microjoules * 1_000_000


def uj_over_ns_to_mw(microjoules: int, nanoseconds: int) -> int:
    """Mean power in milliwatts of so many microjoules in so many nanoseconds, rounded to the nearest."""
    return (microjoules * 1_000_000 * 2 + nanoseconds) // (2 * nanoseconds)


def uj_over_mw_to_ns(microjoules: int, milliwatts: int) -> int:
    """Nanoseconds in which so many milliwatts make so many microjoules, rounded down."""
    return microjoules * 1_000_000 // milliwatts


def uw_to_mw(microwatts: int) -> int:
    """Microwatts (powercap, hwmon) to milliwatts, rounded to the nearest."""
    return (microwatts + 500) // 1_000


def j_to_wh(joules: float) -> float:
    """Joules to watt-hours."""
    return joules / J_PER_WH


def j_to_kwh(joules: float) -> float:
    """Joules to kilowatt-hours."""
    return joules / (J_PER_WH * 1_000)


def wh_per_thousand(joules_each: float) -> float:
    """Joules of one thing to watt-hours of a thousand of them."""
    return j_to_wh(joules_each * 1_000)


def kwh_per_million(joules_each: float) -> float:
    """Joules of one thing to kilowatt-hours of a million of them."""
    return j_to_kwh(joules_each * 1_000_000)


def bytes_to_mb(size: int) -> float:
    """Bytes to megabytes of a million bytes."""
    return size / 1_000_000


def bytes_to_gb(size: int) -> float:
    """Bytes to gigabytes of 1,000 million bytes."""
    return size / 1_000_000_000


def per_day(per_second: float) -> float:
    """A rate by the second as one by the day."""
    return per_second * 86_400


def per_million(amount: float, count: float) -> float:
    """An amount over a count of things, for a million of them."""
    return amount / count * 1_000_000


def g_to_kg(grams: float) -> float:
    """Grams to kilograms."""
    return grams / 1_000


def kg_to_g(kilograms: float) -> float:
    """Kilograms to grams."""
    return kilograms * 1_000


def years_to_s(years: float) -> float:
    """Years of 365.25 days to seconds."""
    return years * 31_557_600


def w_s_to_uj(watts: float, seconds: float) -> int:
    """So many watts for so many seconds, in microjoules, rounded to the nearest."""
    return round(watts * seconds * UJ_PER_J)
