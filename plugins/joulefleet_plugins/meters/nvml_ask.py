"""What NVML is asked of one GPU, in which unit it answers, and what its errors mean."""

from collections.abc import Callable
from typing import Any

from joulefleet.units import mj_to_uj, mw_to_w

UNINITIALIZED, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, DRIVER_NOT_LOADED = 1, 3, 4, 6, 9
LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, LIB_RM_VERSION_MISMATCH = 12, 13, 18

UNSUPPORTED = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND})
WHOLE = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH})
"""Errors that concern every board at once."""
LOST = frozenset({NOT_FOUND, 15, 16, 28})
"""NOT_FOUND of its UUID, GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND."""
GONE = LOST | {2}
"""And INVALID_ARGUMENT, where the handle is the only argument: it is no board's any more."""

REASONS: dict[int, str] = {
    NOT_SUPPORTED: "not_supported",
    NO_PERMISSION: "permission",
    10: "timeout",
    FUNCTION_NOT_FOUND: "not_supported",
    19: "in_use",
    27: "not_ready",
    29: "invalid_state",
    999: "nvml_unknown",
    **dict.fromkeys(GONE, "gpu_lost"),
}
"""Reason code of a board's failed read, by NVML's return value; all of them are tried again at the next read."""

ENERGY, POWER_AVERAGE, POWER_INSTANT, POWER_MAX_LIMIT, POWER_CURRENT_LIMIT = 191, 185, 186, 188, 190
"""Fields that take a scope (NVML_FI_DEV_*); in mJ and mW."""
SCOPE_GPU, SCOPE_MODULE = 0, 1
"""NVML_POWER_SCOPE_*; the scope of a GPU's memory is a part of the GPU's, and is not asked."""
MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""Member of a field's value, by its `valueType`."""

THROTTLES: dict[str, int] = {
    "throttle_power_pct": 0x4 | 0x80,
    "throttle_thermal_pct": 0x20 | 0x40,
    "throttle_slowdown_pct": 0x8,
}
"""Bits of the clocks' event reasons: power cap and power brake; thermal by software and hardware; the hardware's own
slowdown, whatever its cause. A mean over reads is the share of time in which one stood. A power cap is no fault."""

Told = dict[str, Any]
"""What an answer tells, by field of MeterReading or name of the gauge; empty where the answer is no value."""
Ask = Callable[[Any, Any], Told]
"""Asks NVML (the module `pynvml`) something of a handle. Raises its NVMLError."""


def counter(nvml: Any, handle: Any) -> Told:
    """Energy since the driver was loaded."""
    return {"counter_uj": mj_to_uj(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))}


def power(nvml: Any, handle: Any) -> Told:
    """Power of the board; 0 is what some drivers say when they have no value, since a board that answers draws some."""
    return _power(nvml.nvmlDeviceGetPowerUsage(handle))


def scoped_counter(scope: int) -> Ask:
    """Energy in this scope; a counter that stands at 0 is taken for one that is not there."""

    def ask(nvml: Any, handle: Any) -> Told:
        energy_mj = int(field(nvml, handle, ENERGY, scope))
        return {"counter_uj": mj_to_uj(energy_mj)} if energy_mj else {}

    return ask


def scoped_power(field_id: int, scope: int) -> Ask:
    """Power in this scope, by POWER_AVERAGE or POWER_INSTANT."""
    return lambda nvml, handle: _power(int(field(nvml, handle, field_id, scope)))


def field(nvml: Any, handle: Any, field_id: int, scope: int) -> float:
    """One field's value. Raises NVMLError: each field has a return value of its own."""
    (answer,) = nvml.nvmlDeviceGetFieldValues(handle, [(field_id, scope)])
    if answer.nvmlReturn:
        raise nvml.NVMLError(answer.nvmlReturn)
    value: float = getattr(answer.value, MEMBERS[answer.valueType])
    return value


def utilisation(nvml: Any, handle: Any) -> Told:
    """Share of the last sample period in which any kernel ran."""
    return {"utilisation_pct": float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)}


def throttles(nvml: Any, handle: Any) -> Told:
    """Whether the clocks are held down now, by reason, as 0 or 100 %."""
    try:
        reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except nvml.NVMLError_FunctionNotFound:
        # Its name in drivers before 535.
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return {name: 100.0 if reasons & bits else 0.0 for name, bits in THROTTLES.items()}


def temperature(nvml: Any, handle: Any) -> Told:
    """Temperature of the chip."""
    return {"temperature_c": float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))}


def sm_clock(nvml: Any, handle: Any) -> Told:
    """Clock of the multiprocessors."""
    return {"sm_clock_mhz": float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))}


def memory_clock(nvml: Any, handle: Any) -> Told:
    """Clock of the memory."""
    return {"memory_clock_mhz": float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM))}


def power_limit(nvml: Any, handle: Any) -> Told:
    """The limit in force, which may be changed at any time."""
    return {"power_limit_w": mw_to_w(nvml.nvmlDeviceGetEnforcedPowerLimit(handle))}


OFTEN: dict[str, Ask] = {"utilisation": utilisation, "throttles": throttles}
"""Asked beside energy and power with every read: they change within seconds, and their means need many reads."""
SELDOM: dict[str, Ask] = {
    "temperature": temperature,
    "sm_clock": sm_clock,
    "memory_clock": memory_clock,
    "power_limit": power_limit,
}
"""Asked every few seconds: each question takes a lock in the driver for 10 to 100 us."""


def _power(power_mw: int) -> Told:
    return {"power_mw": power_mw} if power_mw else {}
