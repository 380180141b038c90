"""What the GPUs of a server are: boards, MIG slices of a board, and modules that hold GPUs and their CPU.

A Grace-Hopper module has one counter, of GPU, CPU and memory together, which stands where a board's would: so the GPU's
UUID names the module there, and a GPU's own power is a meter inside it, where the driver tells it. On Grace-Blackwell
each GPU has a counter of its own, and every GPU repeats the figure of its module (two GPUs and a CPU): it is declared
once. GPUs are of one module where NVML tells the same CPUs for them.
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from joulefleet import Failure, Kind, Meter, Slice
from joulefleet.units import mj_to_uj, ms_to_ns, w_to_mw
from joulefleet_plugins.meters import nvml_ask as ask
from joulefleet_plugins.meters.nvml_ask import Ask
from joulefleet_plugins.meters.nvml_processes import ProcessActivity, residents

REFRESH_NS = ms_to_ns(100)
"""Longest step of the counter that was seen: about 10 ms on a V100, up to 100 ms on others (ML.ENERGY)."""
RESOLUTION_UJ = mj_to_uj(1)

IDLE_W: dict[str, float] = {"A100": 46, "A10G": 18, "P100": 36, "P4": 9, "T4": 8, "V100": 35}
"""Least power of a board, by a word of its name: Cloud Carbon Footprint's constants for AWS, Azure and GCP."""

COUNTS_MODULE = "GH200"
"""The platform whose energy counter covers GPU, CPU and memory in one figure (zeus, pull request 172)."""
COUNTS_MODULE_MAX_MW = w_to_mw(1000)
"""NVIDIA's data sheet: 450 to 1,000 W for the module; where the driver tells no limit in the module's scope."""
GRACE_MAX_MW = w_to_mw(500)
"""NVIDIA's data sheet of the Grace CPU Superchip, two CPUs with their memory: one can draw no more than both."""
MODULE_KINDS: tuple[Kind, ...] = ("accelerator", "cpu_package", "dram")
CPU_WORDS = 64
"""Of 64 CPUs each, in a mask of the CPUs beside a GPU."""

MODULE_POWER = tuple(ask.scoped_power(each, ask.SCOPE_MODULE) for each in (ask.POWER_AVERAGE, ask.POWER_INSTANT))
GPU_POWER = tuple(ask.scoped_power(each, ask.SCOPE_GPU) for each in (ask.POWER_AVERAGE, ask.POWER_INSTANT))


@dataclass
class Board:
    """One meter of a GPU: what it is, what it can be asked, and how often it was lost."""

    meter: Meter
    uuid: str = ""
    """Of the GPU that is asked."""
    principal: str = ""
    """The question without whose answer there is no reading."""
    asks: dict[str, Ask] = field(default_factory=dict)
    """Every question, the principal one first."""
    handle: Any = None
    losses: int = 0
    unsupported: set[str] = field(default_factory=set)
    """Questions that are not put any more, until the driver is loaded anew."""
    reads: int = 0
    """Since the handle was found."""
    fault: Failure | None = None
    """Why it could not be identified when the source was opened."""


class Identification:
    """Finds out what the GPUs are. What a GPU does not support is not asked again."""

    def __init__(self, nvml: Any, period_ns: int) -> None:
        self._nvml = nvml
        self._period_ns = period_ns
        self._driver = str(nvml.nvmlSystemGetDriverVersion())

    def boards(self) -> list[Board]:
        """Every meter of every GPU; a GPU that does not tell who it is stays declared, and fails.

        Raises NVMLError where it concerns every board.
        """
        found = [one for index in range(self._nvml.nvmlDeviceGetCount()) for one in self._of_gpu(index)]
        modules = self._modules([one for one in found if one.meter.kind == "accelerator" and not one.meter.inside])
        return found + modules

    def sliced(self, meter: Meter, handle: Any) -> Meter:
        """The board with the MIG slices that it has now, or as it is where it does not tell for now."""
        try:
            slices = self._slices(handle)
            slots = int(self._nvml.nvmlDeviceGetMaxMigDeviceCount(handle)) if slices else 0
        except self._nvml.NVMLError as error:
            if error.value in ask.WHOLE:
                raise
            return meter
        return msgspec.structs.replace(meter, slices=slices, slots=slots)

    def _of_gpu(self, index: int) -> list[Board]:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
            uuid, name = str(self._nvml.nvmlDeviceGetUUID(handle)), str(self._nvml.nvmlDeviceGetName(handle))
        except self._nvml.NVMLError as error:
            if error.value in ask.WHOLE:
                raise
            return [self._unidentified(f"gpu-{index}", error)]
        counts = self._supports(handle, ask.counter)
        if counts and COUNTS_MODULE in name:
            return self._superchip(handle, uuid, name)
        return [self._board(handle, uuid, name, counts)]

    def _unidentified(self, place: str, error: Any) -> Board:
        meter = Meter(id=place, kind="accelerator", grade="counter", sensor_class="onboard", period_ns=self._period_ns)
        fault = failure(place, error)
        mend = f"{fault.detail} when the source was opened; restart the agent once the GPU answers"
        return Board(meter, fault=msgspec.structs.replace(fault, detail=mend))

    def _board(self, handle: Any, uuid: str, name: str, counts: bool) -> Board:
        meter = self._meter(
            id=uuid,
            kind="accelerator",
            grade="counter" if counts else "integrated",
            device=uuid,
            hw_model=name,
            max_power_mw=self._rated_mw(handle),
            power_limit_mw=self._first(handle, _enforced_limit_mw, _management_limit_mw),
            idle_mw=idle_mw(name),
        )
        return _asked(self.sliced(meter, handle), uuid, handle, ask.counter if counts else None, ask.power, **_beside())

    def _superchip(self, handle: Any, uuid: str, name: str) -> list[Board]:
        """A module under its GPU's UUID, and the GPU's own power beside it where the driver tells it."""
        module = self._meter(
            id=uuid,
            kind="module",
            grade="counter",
            contains=MODULE_KINDS,
            device=uuid,
            hw_model=name,
            max_power_mw=self._module_limit_mw(handle) or COUNTS_MODULE_MAX_MW,
            power_limit_mw=self._first(handle, _enforced_limit_mw, _management_limit_mw),
        )
        whole, own = self._answering(handle, MODULE_POWER), self._answering(handle, GPU_POWER)
        boards = [_asked(self.sliced(module, handle), uuid, handle, ask.counter, whole, **_beside())]
        if own is not None:
            gpu = self._meter(
                id=f"{uuid}/gpu",
                kind="accelerator",
                grade="integrated",
                inside=uuid,
                device=uuid,
                hw_model=name,
                max_power_mw=self._rated_mw(handle),
                power_limit_mw=module.power_limit_mw,
            )
            boards.append(_asked(gpu, uuid, handle, None, own))
        return boards

    def _modules(self, gpus: Sequence[Board]) -> list[Board]:
        """The modules that hold these GPUs, where the driver tells of them; each GPU is put inside its own."""
        telling = [one for one in gpus if one.handle is not None and self._module_asks(one.handle) != (None, None)]
        by_cpus: dict[tuple[int, ...], list[Board]] = {}
        for one in telling:
            by_cpus.setdefault(self._cpus(one.handle), []).append(one)
        if () in by_cpus and len(telling) > 1:
            # Which GPUs repeat one module's figure is not known: no figure rather than one that is counted twice.
            return []
        return [self._module(its) for its in by_cpus.values()]

    def _module(self, gpus: Sequence[Board]) -> Board:
        first = gpus[0]
        energy, power = self._module_asks(first.handle)
        meter = self._meter(
            id=f"{first.uuid}/module",
            kind="module",
            grade="counter" if energy else "integrated",
            contains=MODULE_KINDS,
            hw_model=first.meter.hw_model,
            max_power_mw=self._module_limit_mw(first.handle) or _most_mw(gpus),
        )
        for one in gpus:
            one.meter = msgspec.structs.replace(one.meter, inside=meter.id)
        return _asked(meter, first.uuid, first.handle, energy, power)

    def _module_asks(self, handle: Any) -> tuple[Ask | None, Ask | None]:
        """Energy and power in the scope of the module, each where the driver tells it.

        Asked only where GPU and CPU share a link of their own (C2C): a driver that knows no scopes tells the GPU's
        figure for each of them.
        """
        if not self._first(handle, _is_beside_cpu):
            return None, None
        energy = self._answering(handle, (ask.scoped_counter(ask.SCOPE_MODULE),))
        return energy, self._answering(handle, MODULE_POWER)

    def _module_limit_mw(self, handle: Any) -> int:
        return self._first(handle, *map(_module_limit, (ask.POWER_MAX_LIMIT, ask.POWER_CURRENT_LIMIT)))

    def _meter(self, **declared: Any) -> Meter:
        counted = declared["grade"] == "counter"
        return Meter(
            sensor_class="onboard",
            resolution_uj=RESOLUTION_UJ if counted else 0,
            refresh_ns=REFRESH_NS,
            period_ns=self._period_ns,
            restarts_at_zero=counted,
            driver=self._driver,
            **declared,
        )

    def _rated_mw(self, handle: Any) -> int:
        # The highest settable limit, since one that is raised while the agent runs must not make readings implausible.
        return self._first(handle, _highest_limit_mw, _management_limit_mw, _enforced_limit_mw)

    def _slices(self, handle: Any) -> tuple[Slice, ...]:
        """MIG instances of a board, each with its compute slices; none where MIG is off. Raises NVMLError."""
        if not self._nvml.nvmlDeviceGetMigMode(handle)[0]:
            return ()
        found = []
        for index in range(self._nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            # Indices are not dense: an instance that was destroyed leaves a hole.
            with contextlib.suppress(self._nvml.NVMLError_NotFound, self._nvml.NVMLError_InvalidArgument):
                instance = self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
                slots = int(self._nvml.nvmlDeviceGetAttributes(instance).computeInstanceSliceCount)
                found.append(Slice(str(self._nvml.nvmlDeviceGetUUID(instance)), slots))
        return tuple(found)

    def _cpus(self, handle: Any) -> tuple[int, ...]:
        """The CPUs beside a GPU, as a mask; empty where it is not told."""
        try:
            mask = tuple(self._nvml.nvmlDeviceGetCpuAffinity(handle, CPU_WORDS))
        except self._nvml.NVMLError as error:
            if error.value in ask.WHOLE:
                raise
            return ()
        return mask if any(mask) else ()

    def _answering(self, handle: Any, asks: Sequence[Ask]) -> Ask | None:
        """The first of these questions that has an answer now."""
        return next((one for one in asks if self._tells(handle, one)), None)

    def _tells(self, handle: Any, one: Ask) -> bool:
        try:
            return bool(one(self._nvml, handle))
        except self._nvml.NVMLError as error:
            if error.value in ask.WHOLE:
                raise
            return False

    def _supports(self, handle: Any, one: Ask) -> bool:
        """False only where NVML says so; a board that fails for now is taken to have what it should have."""
        try:
            one(self._nvml, handle)
        except self._nvml.NVMLError as error:
            if error.value in ask.WHOLE:
                raise
            return error.value not in ask.UNSUPPORTED
        return True

    def _first(self, handle: Any, *asks: Callable[[Any, Any], int]) -> int:
        """The first answer of these, 0 where none is supported."""
        return next((value for one in asks if (value := self._try(handle, one))), 0)

    def _try(self, handle: Any, one: Callable[[Any, Any], int]) -> int:
        try:
            return one(self._nvml, handle)
        except self._nvml.NVMLError as error:
            if error.value in ask.WHOLE:
                raise
            return 0


def idle_mw(name: str) -> int:
    """Catalogue idle power in milliwatts of the GPU of this name; 0 where the catalogue has none."""
    return next((w_to_mw(IDLE_W[word]) for word in re.findall(r"\w+", name) if word in IDLE_W), 0)


def failure(subject: str, error: Any) -> Failure:
    """That NVML answered this error for a board."""
    code = ask.REASONS.get(error.value, f"nvml_{error.value}")
    return Failure(subject=subject, code=code, detail=f"NVML: {error} ({error.value})")


def _most_mw(gpus: Sequence[Board]) -> int:
    """What a module may draw at most, where the driver tells no limit of it; 0 where a GPU has none either."""
    rated = [one.meter.max_power_mw for one in gpus]
    return sum(rated) + GRACE_MAX_MW if all(rated) else 0


def _beside() -> dict[str, Ask]:
    """What is asked of a board beside its energy and power."""
    return {**ask.OFTEN, **ask.SELDOM, "processes": ProcessActivity(), "residents": residents}


def _asked(meter: Meter, uuid: str, handle: Any, energy: Ask | None, power: Ask | None, **others: Ask) -> Board:
    asks = {name: one for name, one in (("counter_uj", energy), ("power_mw", power)) if one is not None}
    return Board(meter, uuid, next(iter(asks)), asks | others, handle)


def _enforced_limit_mw(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetEnforcedPowerLimit(handle))


def _management_limit_mw(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetPowerManagementLimit(handle))


def _highest_limit_mw(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)[1])


def _module_limit(field_id: int) -> Callable[[Any, Any], int]:
    return lambda nvml, handle: int(ask.field(nvml, handle, field_id, ask.SCOPE_MODULE))


def _is_beside_cpu(nvml: Any, handle: Any) -> int:
    return int(nvml.nvmlDeviceGetC2cModeInfoV(handle).isC2cEnabled)
