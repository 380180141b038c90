"""NVIDIA GPUs, read through NVML: the energy counter of each board, and its power gauge beside it.

Reads `libnvidia-ml.so.1`, which comes with the driver, through NVIDIA's own binding (package `nvidia-ml-py`, module
`pynvml`). No root is needed.

The counter comes first, since the gauge of an A100 or H100 sees a quarter of the time only (arXiv 2312.02741). It
begins at 0 when the driver is loaded, so its epoch names the boot and the driver, and changes whenever the library
had to be initialised again or the board was lost: between two epochs nobody knows whether the counter began anew.

NVML's calls queue at one lock in the driver: the boards are read one after the other, in one thread.
"""

import contextlib
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from joulefleet import (
    Engine,
    Failure,
    Kind,
    Meter,
    MeterReading,
    ProcessMustEnd,
    Reading,
    Source,
    SourceUnavailable,
    typed,
)
from joulefleet.units import mj_to_uj, ms_to_ns, s_to_ns, w_to_mw

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

REFRESH_NS = ms_to_ns(100)
"""Longest step of the counter that was seen: about 10 ms on a V100, up to 100 ms on others (ML.ENERGY)."""
RESOLUTION_UJ = mj_to_uj(1)
DEADLINE_NS = s_to_ns(5)
"""Without persistence mode the first call after a pause wakes the board, which takes seconds."""

IDLE_W: dict[str, float] = {"A100": 46, "A10G": 18, "P100": 36, "P4": 9, "T4": 8, "V100": 35}
"""Least power of a board, by a word of its name: Cloud Carbon Footprint's constants for AWS, Azure and GCP."""

MODULE = "GH200"
"""The platform whose energy counter covers GPU, CPU and memory in one figure (zeus, pull request 172)."""
MODULE_KINDS: tuple[Kind, ...] = ("accelerator", "cpu_package", "dram")
MODULE_MAX_MW = w_to_mw(1000)
"""NVIDIA's data sheet: 450 to 1,000 W for the module. NVML's own limits are of the GPU alone there."""

UNINITIALIZED, NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED = 1, 3, 4, 9
LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, LIB_RM_VERSION_MISMATCH = 12, 13, 18

UNSUPPORTED = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND})
WHOLE = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH})
"""Errors that concern every board at once."""
LOST = frozenset({6, 15, 16, 28})
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

ABSENT: dict[int, tuple[str, str]] = {
    UNINITIALIZED: ("driver", "look into the kernel's log for the NVIDIA driver"),
    DRIVER_NOT_LOADED: ("driver", "load the NVIDIA kernel module: modprobe nvidia"),
    LIBRARY_NOT_FOUND: ("library_missing", "install the NVIDIA driver, which brings libnvidia-ml.so.1"),
    NO_PERMISSION: ("permission", "let the agent's user open /dev/nvidiactl and /dev/nvidia0, /dev/nvidia1, ..."),
    LIB_RM_VERSION_MISMATCH: (
        "driver_mismatch",
        "the kernel module is of another version than the library: load it anew or reboot, then restart the agent",
    ),
}
"""Reason code and mend where NVML as a whole does not answer."""


class NvmlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    period_s: Annotated[float, msgspec.Meta(ge=0.1)] = 1.0
    """Seconds between two reads; not below the counter's own step."""


Ask = Callable[[Any, Any], float | None]
"""Asks NVML something of a handle; None where the answer cannot be one."""


def _counter_uj(nvml: Any, handle: Any) -> int:
    return mj_to_uj(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))


def _power_mw(nvml: Any, handle: Any) -> int | None:
    # A board that answers draws power; 0 is what some drivers say when they have no value.
    return nvml.nvmlDeviceGetPowerUsage(handle) or None


def _utilisation_pct(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)


def _temperature_c(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))


def _enforced_limit_mw(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetEnforcedPowerLimit(handle))


def _management_limit_mw(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetPowerManagementLimit(handle))


def _highest_limit_mw(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)[1])


GAUGES: dict[str, Ask] = {"utilisation_pct": _utilisation_pct, "temperature_c": _temperature_c}
ASKS: dict[str, Ask] = {"counter_uj": _counter_uj, "power_mw": _power_mw, **GAUGES}


@dataclass
class Board:
    """One GPU: what it is, what it can be asked, and how often it was lost."""

    meter: Meter
    principal: str = "counter_uj"
    """The answer without which there is no reading."""
    asks: list[str] = field(default_factory=list)
    handle: Any = None
    losses: int = 0
    fault: Failure | None = None
    """Why it could not be identified when the source was opened."""


class NvmlSource:
    """All GPUs that NVML lists on this server."""

    def __init__(self, nvml: Any, config: NvmlConfig, boot_id: str) -> None:
        """`nvml` is the module `pynvml`. Raises its NVMLError, and SourceUnavailable where no GPU is listed."""
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = DEADLINE_NS
        self._nvml = nvml
        nvml.nvmlInit()
        self._inits = 0
        self._driver = str(nvml.nvmlSystemGetDriverVersion())
        self._life = f"{boot_id}/{self._driver}"
        self._boards = [self._board(index) for index in range(nvml.nvmlDeviceGetCount())]
        if not self._boards:
            nvml.nvmlShutdown()
            raise SourceUnavailable("absent", "NVML lists no GPU", "check that the GPUs are visible to nvidia-smi")
        self.declares: tuple[Meter | Engine, ...] = tuple(board.meter for board in self._boards)

    def read(self) -> list[Reading]:
        """Every board once.

        Raises SourceUnavailable while the driver is away, ProcessMustEnd where it was replaced under this process.
        """
        try:
            return self._read_or_begin_anew()
        except self._nvml.NVMLError as error:
            if error.value == LIB_RM_VERSION_MISMATCH:
                # The old library stays mapped into this process, also after nvmlShutdown.
                raise ProcessMustEnd("the NVIDIA driver was replaced while the agent ran") from error
            raise _unavailable(error) from error

    def _read_or_begin_anew(self) -> list[Reading]:
        try:
            return [self._read(board) for board in self._boards]
        except (self._nvml.NVMLError_Uninitialized, self._nvml.NVMLError_DriverNotLoaded):
            self._begin_anew()
            return [self._read(board) for board in self._boards]

    def _begin_anew(self) -> None:
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()
        self._nvml.nvmlInit()
        self._inits += 1
        for board in self._boards:
            board.handle, board.asks = None, _asks(board.meter, board.principal)

    def _read(self, board: Board) -> Reading:
        if board.fault is not None:
            return board.fault
        try:
            return self._reading(board, self._answers(board))
        except self._nvml.NVMLError as error:
            if error.value in WHOLE:
                raise
            board.handle = None
            board.losses += error.value in GONE
            return _failure(board.meter.id, error)

    def _answers(self, board: Board) -> dict[str, float | None]:
        if board.handle is None:
            board.handle = self._nvml.nvmlDeviceGetHandleByUUID(board.meter.id)
        answers: dict[str, float | None] = {}
        for name in tuple(board.asks):
            with self._only_beside(board, name):
                answers[name] = ASKS[name](self._nvml, board.handle)
        return answers

    @contextlib.contextmanager
    def _only_beside(self, board: Board, name: str) -> Iterator[None]:
        """Let an answer beside the principal one be absent, and for good where the board does not support it."""
        try:
            yield
        except self._nvml.NVMLError as error:
            if name == board.principal or error.value in WHOLE | LOST:
                raise
            if error.value in UNSUPPORTED:
                board.asks.remove(name)

    def _reading(self, board: Board, answers: dict[str, float | None]) -> Reading:
        if answers[board.principal] is None:
            return Failure(subject=board.meter.id, code="no_value", detail="NVML answers 0 W")
        told = {name: value for name, value in answers.items() if value is not None}
        gauges = {name: told.pop(name) for name in GAUGES if name in told}
        epoch = f"{self._life}/{self._inits}.{board.losses}"
        return MeterReading(meter=board.meter.id, epoch=epoch, gauges=gauges, **{k: int(v) for k, v in told.items()})

    def _board(self, index: int) -> Board:
        """The board of this index; one that does not tell who it is stays declared, and fails."""
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            uuid, name = str(self._nvml.nvmlDeviceGetUUID(handle)), str(self._nvml.nvmlDeviceGetName(handle))
        except self._nvml.NVMLError as error:
            if error.value in WHOLE:
                raise
            return self._unidentified(f"gpu-{index}", error)
        principal = "counter_uj" if self._supports(handle, _counter_uj) else "power_mw"
        meter = self._meter(handle, uuid, name, principal)
        return Board(meter, principal, _asks(meter, principal), handle)

    def _unidentified(self, place: str, error: Any) -> Board:
        meter = Meter(id=place, kind="accelerator", grade="counter", sensor_class="onboard", period_ns=self.period_ns)
        fault = _failure(place, error)
        mend = f"{fault.detail} when the source was opened; restart the agent once the GPU answers"
        return Board(meter, fault=msgspec.structs.replace(fault, detail=mend))

    def _meter(self, handle: Any, uuid: str, name: str, principal: str) -> Meter:
        counted = principal == "counter_uj"
        module = counted and MODULE in name
        limit_mw = self._first(handle, _enforced_limit_mw, _management_limit_mw)
        # The highest settable limit, since one that is raised while the agent runs must not make readings implausible.
        rated_mw = self._first(handle, _highest_limit_mw, _management_limit_mw, _enforced_limit_mw)
        return Meter(
            id=uuid,
            kind="module" if module else "accelerator",
            grade="counter" if counted else "integrated",
            sensor_class="onboard",
            contains=MODULE_KINDS if module else (),
            device=uuid,
            hw_model=name,
            resolution_uj=RESOLUTION_UJ if counted else 0,
            refresh_ns=REFRESH_NS,
            period_ns=self.period_ns,
            max_power_mw=MODULE_MAX_MW if module else rated_mw,
            restarts_at_zero=counted,
            driver=self._driver,
            power_limit_mw=limit_mw,
            idle_mw=0 if module else idle_mw(name),
        )

    def _first(self, handle: Any, *asks: Callable[[Any, Any], int]) -> int:
        """The first answer of these, 0 where none is supported."""
        return next((value for ask in asks if (value := self._try(handle, ask))), 0)

    def _try(self, handle: Any, ask: Callable[[Any, Any], int]) -> int:
        try:
            return ask(self._nvml, handle)
        except self._nvml.NVMLError as error:
            if error.value in WHOLE:
                raise
            return 0

    def _supports(self, handle: Any, ask: Ask) -> bool:
        """False only where NVML says so; a board that fails for now is taken to have what it should have."""
        try:
            ask(self._nvml, handle)
        except self._nvml.NVMLError as error:
            if error.value in WHOLE:
                raise
            return error.value not in UNSUPPORTED
        return True


def idle_mw(name: str) -> int:
    """Catalogue idle power in milliwatts of the GPU of this name; 0 where the catalogue has none."""
    return next((w_to_mw(IDLE_W[word]) for word in re.findall(r"\w+", name) if word in IDLE_W), 0)


def _asks(meter: Meter, principal: str) -> list[str]:
    # The gauge of a module sees the GPU alone: it is no cross-check of the module's counter.
    beside = [] if meter.kind == "module" else ["power_mw"]
    return list(dict.fromkeys([principal, *beside, *GAUGES]))


def _failure(subject: str, error: Any) -> Failure:
    code = REASONS.get(error.value, f"nvml_{error.value}")
    return Failure(subject=subject, code=code, detail=f"NVML: {error} ({error.value})")


def _unavailable(error: Any) -> SourceUnavailable:
    code, mend = ABSENT.get(error.value, (REASONS.get(error.value, f"nvml_{error.value}"), ""))
    return SourceUnavailable(code, f"NVML: {error} ({error.value})", mend)


def _boot_id() -> str:
    """This boot's id; empty where the kernel tells none: a counter that fell shows a reboot as well."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def open(table: dict[str, Any]) -> Source:
    """All GPUs that NVML lists.

    Raises ConfigError, and SourceUnavailable where package, library, driver or GPU is missing.
    """
    config = typed(table, NvmlConfig, "nvml")
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        mend = "pip install 'joulefleet[nvidia]'"
        raise SourceUnavailable("package_missing", "the package nvidia-ml-py is not installed", mend) from error
    try:
        return NvmlSource(nvml, config, _boot_id())
    except nvml.NVMLError as error:
        raise _unavailable(error) from error
