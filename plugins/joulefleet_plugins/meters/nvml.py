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
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from joulefleet import (
    Engine,
    Failure,
    Meter,
    MeterReading,
    ProcessMustEnd,
    Reading,
    Source,
    SourceUnavailable,
    typed,
)
from joulefleet.units import s_to_ns
from joulefleet_plugins.meters import nvml_ask as ask
from joulefleet_plugins.meters.nvml_board import Board, Identification, failure

TRIED = "faithful fake"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
DEADLINE_NS = s_to_ns(5)
"""Without persistence mode the first call after a pause wakes the board, which takes seconds."""
SELDOM_S = 5.0
"""Between two questions for what changes slowly, or what many drivers are slow to tell: lists of processes."""
SELDOM = {*ask.SELDOM, "processes"}
RESIDENTS_S = 30.0
"""Between two questions which processes run on a board, by which the boards of engines are found."""
SLICES_S = 60.0
"""Between two looks at the MIG slices of the boards, which are made and destroyed while work goes on."""
READING_FIELDS = ("counter_uj", "power_mw", "activity_ns", "processes")
"""What an answer may tell that is no gauge beside the energy."""

ABSENT: dict[int, tuple[str, str]] = {
    ask.UNINITIALIZED: ("driver", "look into the kernel's log for the NVIDIA driver"),
    ask.DRIVER_NOT_LOADED: ("driver", "load the NVIDIA kernel module: modprobe nvidia"),
    ask.LIBRARY_NOT_FOUND: ("library_missing", "install the NVIDIA driver, which brings libnvidia-ml.so.1"),
    ask.NO_PERMISSION: ("permission", "let the agent's user open /dev/nvidiactl and /dev/nvidia0, /dev/nvidia1, ..."),
    ask.LIB_RM_VERSION_MISMATCH: (
        "driver_mismatch",
        "the kernel module is of another version than the library: load it anew or reboot, then restart the agent",
    ),
}
"""Reason code and mend where NVML as a whole does not answer."""


class NvmlConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    period_s: Annotated[float, msgspec.Meta(ge=0.1)] = 1.0
    """Seconds between two reads; not below the counter's own step."""


class NvmlSource:
    """All GPUs that NVML lists on this server."""

    def __init__(self, nvml: Any, config: NvmlConfig, boot_id: str) -> None:
        """`nvml` is the module `pynvml`. Raises its NVMLError, and SourceUnavailable where no GPU is listed."""
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = DEADLINE_NS
        self._nvml = nvml
        nvml.nvmlInit()
        self._inits = 0
        self._life = f"{boot_id}/{nvml.nvmlSystemGetDriverVersion()}"
        seldom, rarely = (max(round(each / config.period_s), 1) for each in (SELDOM_S, RESIDENTS_S))
        self._every = {**dict.fromkeys(SELDOM, seldom), "residents": rarely}
        self._slices_every = max(round(SLICES_S / config.period_s), 1)
        self._reads = 0
        self._identification = Identification(nvml, self.period_ns)
        self._boards = self._identification.boards()
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
            if error.value == ask.LIB_RM_VERSION_MISMATCH:
                # The old library stays mapped into this process, also after nvmlShutdown.
                raise ProcessMustEnd("the NVIDIA driver was replaced while the agent ran") from error
            raise _unavailable(error) from error

    def _read_or_begin_anew(self) -> list[Reading]:
        try:
            self._follow_slices()
            return [self._read(board) for board in self._boards]
        except (self._nvml.NVMLError_Uninitialized, self._nvml.NVMLError_DriverNotLoaded):
            self._begin_anew()
            return [self._read(board) for board in self._boards]

    def _follow_slices(self) -> None:
        """Declare anew the boards whose MIG slices have changed."""
        self._reads += 1
        if self._reads % self._slices_every:
            return
        for board in self._boards:
            if board.handle is not None and board.meter.id == board.uuid:
                meter = self._identification.sliced(board.meter, board.handle)
                if meter != board.meter:
                    board.meter = meter
                    # What MIG does not support is there again without it.
                    board.unsupported.clear()
        self.declares = tuple(board.meter for board in self._boards)

    def _begin_anew(self) -> None:
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()
        self._nvml.nvmlInit()
        self._inits += 1
        for board in self._boards:
            board.handle = None
            board.unsupported.clear()

    def _read(self, board: Board) -> Reading:
        if board.fault is not None:
            return board.fault
        try:
            return self._reading(board, self._told(board))
        except self._nvml.NVMLError as error:
            if error.value in ask.WHOLE:
                raise
            board.handle = None
            board.losses += error.value in ask.GONE
            return failure(board.meter.id, error)

    def _told(self, board: Board) -> ask.Told:
        if board.handle is None:
            board.handle, board.reads = self._nvml.nvmlDeviceGetHandleByUUID(board.uuid), 0
        told: ask.Told = {}
        for name in self._due(board):
            with self._only_beside(board, name):
                told |= board.asks[name](self._nvml, board.handle)
        board.reads += 1
        return told

    def _due(self, board: Board) -> list[str]:
        """The questions of this read."""
        names = [name for name in board.asks if name not in board.unsupported]
        return [name for name in names if board.reads % self._every.get(name, 1) == 0]

    @contextlib.contextmanager
    def _only_beside(self, board: Board, name: str) -> Iterator[None]:
        """Let an answer beside the principal one be absent, and for good where the board does not support it."""
        try:
            yield
        except self._nvml.NVMLError as error:
            if name == board.principal or error.value in ask.WHOLE | ask.LOST:
                raise
            if error.value in ask.UNSUPPORTED:
                board.unsupported.add(name)

    def _reading(self, board: Board, told: ask.Told) -> Reading:
        if board.principal not in told:
            return Failure(subject=board.meter.id, code="no_value", detail=f"NVML answers 0 for {board.principal}")
        known = {name: told.pop(name) for name in READING_FIELDS if name in told}
        epoch = f"{self._life}/{self._inits}.{board.losses}"
        return MeterReading(meter=board.meter.id, epoch=epoch, gauges=told, **known)


def _unavailable(error: Any) -> SourceUnavailable:
    code, mend = ABSENT.get(error.value, (ask.REASONS.get(error.value, f"nvml_{error.value}"), ""))
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
