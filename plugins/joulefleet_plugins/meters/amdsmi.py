"""AMD Instinct and Radeon GPUs, read through AMD's SMI library: the energy counter of each board, its power beside it.

Reads `libamd_smi.so`, which comes with ROCm, through AMD's own binding (module `amdsmi`). No root is needed, but the
groups `render` and `video` where devices are closed to others.

A board is known by the PCI address of its function 0. Its partitions are functions of that address and repeat or blank
what the board tells, so that only the first that tells anything is read. An MI250 has two dies with an address each, of
which one tells for both; dies are paired in the order of their addresses.

Some boards have an energy counter that never moves. So each is watched for half a second when the source is opened, and
where it stands still the power gauge is integrated instead. Values of the first poll may be 0 (MI350X), "N/A", or all
bits set: none of these is a value.
"""

import contextlib
import importlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import ceil
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from joulefleet import Engine, Failure, Kind, Meter, MeterReading, Reading, Source, SourceUnavailable, typed
from joulefleet.units import UJ_PER_J, ms_to_ns, s_to_ns, uw_to_mw, w_to_mw

TRIED = "faithful fake"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

STEP_UJ = Fraction(UJ_PER_J, 2**16)
"""One step of the counter: 2**-16 J, as the kernel's gpu_metrics tables say. The library says 15.3 uJ."""
ROUNDING_UJ = Fraction(1, 20)
REFRESH_NS = ms_to_ns(10)
"""AMD does not say how often the firmware adds to the counter; it was seen to move between any two reads."""
DEADLINE_NS = s_to_ns(5)
WATCHES, WATCH_S = 10, 0.05
"""How often, and how long after one another, boards are asked when the source is opened until their counters move."""
DUAL_DIE, MODULE, INTEGRATED = "MI250", "MI300A", "Graphics"
"""In the names of boards with two dies; of a socket with CPU, GPU and memory, measured as one; and at the end of those
of graphics inside a processor ("AMD Radeon 780M Graphics"), whose power is that of the package."""
NAMES = {"0x7408": "AMD Instinct MI250X", "0x740c": "AMD Instinct MI250X", "0x74a0": "AMD Instinct MI300A"}
"""By PCI id, since some makers name theirs otherwise: "AMD INSTINCT MI200 (MCM) OAM LC MBA HPE C2"."""
MODULE_KINDS: tuple[Kind, ...] = ("accelerator", "cpu_package", "dram")

ABSENT_NUMBERS = frozenset({0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF})
MICROWATTS_FROM = 100_000
"""Power caps are in microwatts since ROCm 6 and were in watts before: no board has a cap of 100 kW or of 0.1 W."""

NOT_SUPPORTED, NO_PERM, INIT_ERROR, NOT_INIT, DRIVER_NOT_LOADED = 2, 10, 18, 32, 34
WHOLE = frozenset({INIT_ERROR, NOT_INIT, DRIVER_NOT_LOADED})
"""Status codes that concern every board at once."""
LOST = frozenset({6, 12, 14, 20, 31, 52})
"""DRM_ERROR, IO, FILE_ERROR, DIRECTORY_NOT_FOUND, NOT_FOUND, FILE_NOT_FOUND: its device or files are away."""
REASONS: dict[int, str] = {
    **dict.fromkeys(LOST, "gpu_lost"),
    **dict.fromkeys((NOT_SUPPORTED, 3), "not_supported"),
    **dict.fromkeys(WHOLE, "driver"),
    **dict.fromkeys((9, 30), "in_use"),
    8: "timeout",
    NO_PERM: "permission",
    40: "no_value",
}
"""Reason code of a failed call by the library's status; others are `amdsmi_` and the status."""
MENDS: dict[str, str] = {
    "driver": "load the AMD kernel driver: modprobe amdgpu",
    "permission": "let the agent's user read the devices: usermod -aG render,video joulefleet",
}


class AmdsmiConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    period_s: Annotated[float, msgspec.Meta(ge=0.1)] = 1.0
    """Seconds between two reads."""


T = TypeVar("T")


class Counted(msgspec.Struct, frozen=True):
    """The energy counter at one instant."""

    counter_uj: int
    stamp_ns: int
    """When the driver made its table, by the boot clock; 0 where it does not say."""


@dataclass
class Board:
    """One physical board: what it is, which of its logical devices tells, and what it told last."""

    meter: Meter
    address: str
    place: int
    """Which of the board's logical devices is asked, in the order of their functions."""
    counts: bool
    handle: Any = None
    losses: int = 0
    last: Counted | None = None


class Watched(msgspec.Struct):
    """What a logical device told while the source was being opened."""

    handle: Any
    place: int
    last_uj: int | None = None
    moves: bool = False
    power: bool = False

    @property
    def tells(self) -> bool:
        """Whether it told any value at all."""
        return self.last_uj is not None or self.power


class AmdsmiSource:
    """All boards that AMD's library lists on this server."""

    def __init__(self, smi: Any, config: AmdsmiConfig, boot_id: str, pause: Callable[[float], None]) -> None:
        """`smi` is the module `amdsmi`. Raises its AmdSmiException, and SourceUnavailable where no GPU is listed."""
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = DEADLINE_NS
        self._smi = smi
        self._boot_id = boot_id
        self._inits = 0
        smi.amdsmi_init()
        self._boards = self._boards_of(self._watch(self._found(), pause))
        if not self._boards:
            smi.amdsmi_shut_down()
            raise SourceUnavailable("absent", "AMD's library lists no GPU", "check that `amd-smi list` shows the GPUs")
        self.declares: tuple[Meter | Engine, ...] = tuple(board.meter for board in self._boards)

    def read(self) -> list[Reading]:
        """Every board once. Raises SourceUnavailable while the driver is away."""
        try:
            return self._read_or_begin_anew()
        except self._smi.AmdSmiException as error:
            raise _unavailable(error) from error

    def _read_or_begin_anew(self) -> list[Reading]:
        try:
            readings = [self._read(board) for board in self._boards]
        except self._smi.AmdSmiException:
            readings = []
        if not all(isinstance(one, Failure) and one.code == "gpu_lost" for one in readings):
            return readings
        # After the driver was loaded anew its devices have other names, which the library learns when it begins.
        self._begin_anew()
        return [self._read(board) for board in self._boards]

    def _begin_anew(self) -> None:
        with contextlib.suppress(self._smi.AmdSmiException):
            self._smi.amdsmi_shut_down()
        self._smi.amdsmi_init()
        self._inits += 1
        found = self._found()
        for board in self._boards:
            board.handle = next(iter(found.get(board.address, [])[board.place :]), None)

    def _found(self) -> dict[str, list[Any]]:
        """Handles of each board's logical devices by the address of the board, in the order of their functions."""
        found: dict[str, list[tuple[str, Any]]] = {}
        for handle in self._smi.amdsmi_get_processor_handles():
            address, _, function = str(self._smi.amdsmi_get_gpu_device_bdf(handle)).lower().rpartition(".")
            found.setdefault(f"{address}.0", []).append((function, handle))
        return {key: [one[1] for one in sorted(found[key], key=lambda one: one[0])] for key in sorted(found)}

    def _watch(self, found: dict[str, list[Any]], pause: Callable[[float], None]) -> dict[str, list[Watched]]:
        """What each logical device tells until the counters of all boards were seen to move, or the time is up."""
        seen = {address: [Watched(one, at) for at, one in enumerate(handles)] for address, handles in found.items()}
        for watch in range(WATCHES + 1):
            if watch:
                pause(WATCH_S)
            for one in chain.from_iterable(seen.values()):
                self._look(one)
            if all(any(one.moves for one in ones) for ones in seen.values()):
                break
        return seen

    def _look(self, seen: Watched) -> None:
        counted, power = self._try(seen.handle, counted_of), self._try(seen.handle, power_mw)
        seen.power = seen.power or power is not None
        if counted is not None:
            seen.moves = seen.moves or seen.last_uj not in (None, counted.counter_uj)
            seen.last_uj = counted.counter_uj

    def _boards_of(self, seen: dict[str, list[Watched]]) -> list[Board]:
        chosen = {address: next((one for one in ones if one.tells), ones[0]) for address, ones in seen.items()}
        models = {address: self._model(one.handle) for address, one in chosen.items()}
        silent = {address for address, one in chosen.items() if not one.tells}
        left_out = seconds([address for address in chosen if DUAL_DIE in models[address]], silent)
        left_out |= {address for address in chosen if models[address].endswith(INTEGRATED)}
        return [
            self._board(address, one, models[address]) for address, one in chosen.items() if address not in left_out
        ]

    def _board(self, address: str, seen: Watched, model: str) -> Board:
        # A counter that was not seen to move while the gauge tells is left; where neither tells, it should come.
        counts = seen.moves or not seen.power
        frozen = seen.last_uj is not None and not counts
        module = MODULE in model
        limit_mw, rated_mw = self._caps_mw(seen.handle)
        meter = Meter(
            id=f"amd-{address}",
            kind="module" if module else "accelerator",
            grade="counter" if counts else "integrated",
            sensor_class="onboard",
            contains=MODULE_KINDS if module else (),
            device=address,
            hw_model=model,
            resolution_uj=ceil(STEP_UJ) if counts else 0,
            refresh_ns=REFRESH_NS,
            period_ns=self.period_ns,
            max_power_mw=rated_mw,
            restarts_at_zero=counts,
            driver=str(self._told(seen.handle, "gpu_driver_info").get("driver_version", "")),
            power_limit_mw=limit_mw,
            basis="power gauge: the energy counter stood still when the source was opened" if frozen else "",
        )
        return Board(meter, address, seen.place, counts, seen.handle)

    def _read(self, board: Board) -> Reading:
        subject = board.meter.id
        if board.handle is None:
            return Failure(subject=subject, code="gpu_lost", detail=f"AMD's library lists no GPU at {board.address}")
        try:
            counted = counted_of(self._smi, board.handle) if board.counts else None
            power = self._try(board.handle, power_mw) if board.counts else power_mw(self._smi, board.handle)
        except self._smi.AmdSmiException as error:
            if _status(error) in WHOLE:
                raise
            board.losses += _status(error) in LOST
            return Failure(subject=subject, code=_code(error), detail=_words(error))
        if board.counts and counted is not None and counted == board.last and counted.stamp_ns:
            return Failure(subject=subject, code="stale", detail=f"the table of {counted.stamp_ns} ns is not renewed")
        board.last = counted
        if (counted if board.counts else power) is None:
            return Failure(subject=subject, code="no_value", detail="AMD's library answers 0, N/A or all bits set")
        return MeterReading(
            meter=subject,
            counter_uj=counted.counter_uj if counted else None,
            power_mw=power,
            epoch=f"{self._boot_id}/{board.meter.driver}/{self._inits}.{board.losses}",
            gauges=self._gauges(board.handle),
        )

    def _gauges(self, handle: Any) -> dict[str, float]:
        return {name: value for name, ask in GAUGES.items() if (value := self._try(handle, ask)) is not None}

    def _try(self, handle: Any, ask: Callable[[Any, Any], T]) -> T | None:
        """This answer, or None where it cannot be had just now."""
        try:
            return ask(self._smi, handle)
        except self._smi.AmdSmiException as error:
            if _status(error) in WHOLE:
                raise
            return None

    def _told(self, handle: Any, what: str) -> dict[str, Any]:
        """What the library tells of the device by this name; empty where it does not."""
        return self._try(handle, lambda smi, one: dict(getattr(smi, f"amdsmi_get_{what}")(one))) or {}

    def _model(self, handle: Any) -> str:
        """The name on the market, or the PCI id of the device where the library knows none."""
        told = self._told(handle, "gpu_asic_info")
        number = str(told.get("device_id", ""))
        name = NAMES.get(number) or str(told.get("market_name", "N/A")).strip()
        return name if name not in ("", "N/A") else f"AMD GPU {number}".strip()

    def _caps_mw(self, handle: Any) -> tuple[int, int]:
        """The power cap that holds, and the highest that may be set; 0 where it is not told."""
        told = self._told(handle, "power_cap_info")
        cap_mw = cap_to_mw(number(told.get("power_cap")) or 0)
        return cap_mw, max(cap_to_mw(number(told.get("max_power_cap")) or 0), cap_mw)


def number(value: Any) -> float | None:
    """The number in an answer, which by version is bare, text, or under `value`; None where it is none."""
    if isinstance(value, dict):
        value = value.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = int(value) if isinstance(value, int) else float(value)
    except ValueError:
        return None
    # Comparisons with NaN are false; neither energy nor power is 0 while a board answers.
    return found if 0 < found < float("inf") and found not in ABSENT_NUMBERS else None


def step_uj(told_uj: float) -> Fraction:
    """One step of the counter, of which the library tells this: exact where that is 2**-16 J, rounded."""
    told = Fraction(told_uj).limit_denominator(1000)
    return STEP_UJ if abs(told - STEP_UJ) < ROUNDING_UJ else told


def counted_of(smi: Any, handle: Any) -> Counted | None:
    """The energy counter; None where it tells no value. Raises AmdSmiException."""
    told = smi.amdsmi_get_energy_count(handle)
    # The key of the counter was `power` in early releases.
    steps, resolution_uj = number(told.get("energy_accumulator", told.get("power"))), number(told["counter_resolution"])
    if steps is None or resolution_uj is None:
        return None
    step = step_uj(resolution_uj)
    return Counted(int(steps) * step.numerator // step.denominator, int(number(told.get("timestamp")) or 0))


def power_mw(smi: Any, handle: Any) -> int | None:
    """The socket's power: MI300 and later tell the current one, MI200 and Radeon a mean. Raises AmdSmiException."""
    told = smi.amdsmi_get_power_info(handle)
    watts = (number(told.get(key)) for key in ("current_socket_power", "average_socket_power", "socket_power"))
    return next((w_to_mw(value) for value in watts if value is not None), None)


def utilisation_pct(smi: Any, handle: Any) -> float | None:
    """How busy the compute engines are. Raises AmdSmiException."""
    told = smi.amdsmi_get_gpu_activity(handle).get("gfx_activity")
    return float(told) if isinstance(told, int) and 0 <= told <= 100 else None


def temperature_c(smi: Any, handle: Any) -> float | None:
    """The hottest place of the chip. Raises AmdSmiException."""
    hottest, now = smi.AmdSmiTemperatureType.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT
    told = number(smi.amdsmi_get_temp_metric(handle, hottest, now))
    return None if told is None else float(told)


GAUGES: dict[str, Callable[[Any, Any], float | None]] = {
    "utilisation_pct": utilisation_pct,
    "temperature_c": temperature_c,
}


def seconds(addresses: list[str], silent: set[str]) -> set[str]:
    """Of boards with two dies, given by the addresses of all dies in order: the one of each pair that is no meter.

    The silent one where the other tells, else the second: a board that tells nothing just now stays declared once.
    """
    pairs = zip(addresses[::2], addresses[1::2], strict=False)
    return {first if first in silent and other not in silent else other for first, other in pairs}


def cap_to_mw(cap: float) -> int:
    """A power cap, in microwatts or in watts by the release of the library."""
    return uw_to_mw(int(cap)) if cap >= MICROWATTS_FROM else w_to_mw(cap)


def _status(error: Any) -> int:
    return getattr(error, "err_code", None) or 0


def _code(error: Any) -> str:
    return REASONS.get(_status(error), f"amdsmi_{_status(error)}")


def _words(error: Any) -> str:
    return f"AMD SMI: {getattr(error, 'err_info', error)} ({_status(error)})"


def _unavailable(error: Any) -> SourceUnavailable:
    return SourceUnavailable(_code(error), _words(error), MENDS.get(_code(error), ""))


def _library() -> Any:
    """AMD's binding with its library. Raises SourceUnavailable where one is missing or does not fit the other."""
    try:
        # It prints to the standard output where it does not find its library, which would spoil what is printed there.
        with contextlib.redirect_stdout(io.StringIO()):
            return importlib.import_module("amdsmi")
    except ModuleNotFoundError as error:
        mend = "pip install 'joulefleet[amd]', or the package that comes with ROCm: pip install /opt/rocm/share/amd_smi"
        raise SourceUnavailable("package_missing", "the package amdsmi is not installed", mend) from error
    except AttributeError as error:
        mend = "install the package that comes with this ROCm: pip install /opt/rocm/share/amd_smi"
        raise SourceUnavailable(
            "library_mismatch", f"amdsmi is of another release than its library: {error}", mend
        ) from error
    except (ImportError, KeyError, OSError) as error:
        mend = "install ROCm's amd-smi-lib; where it is not in /opt/rocm, name its folder in ROCM_PATH"
        raise SourceUnavailable("library_missing", "libamd_smi.so is not found", mend) from error


def open(table: dict[str, Any]) -> Source:
    """All boards that AMD's library lists. Raises ConfigError, and SourceUnavailable where they cannot be had."""
    config = typed(table, AmdsmiConfig, "amdsmi")
    smi = _library()
    # Where the kernel tells no id of its boot, a counter that fell shows a reboot as well.
    boot_id = BOOT_ID.read_text(encoding="ascii").strip() if BOOT_ID.exists() else ""
    try:
        return AmdsmiSource(smi, config, boot_id, time.sleep)
    except smi.AmdSmiException as error:
        raise _unavailable(error) from error
