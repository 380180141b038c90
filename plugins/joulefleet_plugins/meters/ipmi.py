"""The whole server's input power, asked of its BMC from inside: IPMI DCMI "Get Power Reading" through `/dev/ipmi0`.

Nothing is installed: the two calls of Linux's IPMI driver are made here. The power is the BMC's own instantaneous
figure in whole watts. The means beside it are left alone, since their span may be the whole time since the BMC began.

A BMC whose platform has no power sensor answers 0 W and "deactivated", without an error: that is no value. Others
measure and say "deactivated" all the same, so that the flag alone decides nothing.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from joulefleet import Engine, Failure, Meter, MeterReading, Reading, Source, SourceUnavailable, typed
from joulefleet.units import NS_PER_S, ns_to_ms, s_to_ns, w_to_mw
from joulefleet_plugins.interfaces.still import Still

TRIED = "faithful fake"
DEVICES = ("/dev/ipmi0", "/dev/ipmi/0", "/dev/ipmidev/0")
DMI = "/sys/class/dmi/id"

SYSTEM_INTERFACE, BMC_CHANNEL, RESPONSE = 0x0C, 0x0F, 1
"""linux/ipmi.h: the address of this server's own BMC, and the type of an answer to what was asked."""
STORAGE, GET_SEL_TIME = 0x0A, 0x48
GROUP_EXTENSION, GET_POWER_READING, DCMI = 0x2C, 0x02, 0xDC
POWER_STATUS = bytes((DCMI, 0x01, 0x00, 0x00))
"""DCMI 1.5, section 6.6.1: mode 1 is the system's power statistics."""

POWER_READING = struct.Struct("<BHHHHIIB")
"""Group, watts now, least, most, mean, time stamp in seconds, span of the statistics in milliseconds, state."""
ACTIVE = 0x40
UNKNOWN_W = 0xFFFF
UNSPECIFIED_S = 0xFFFFFFFF
FIRST_CLOCK_S = 1_262_304_000
"""2010: a BMC that tells an earlier time has no clock."""
MAX_AGE_S = 300
"""A time stamp that is older than this is of another clock."""
ASK_CLOCK_AGAIN_READS = 60

BOUND_MW = w_to_mw(30_000)
"""The largest servers of one BMC are rated 10 to 15 kW."""

REFUSALS: dict[int, str] = {
    0xC0: "busy",
    0xC1: "not_supported",
    0xC3: "timeout",
    0xC9: "not_supported",
    0xCB: "not_supported",
    0xCC: "not_supported",
    0xD4: "permission",
    0xD5: "not_supported",
}
"""Reason code by IPMI's completion code; others are `ipmi_XX`."""
MENDS: dict[str, str] = {
    "not_supported": "this BMC has no DCMI power reading: read it by the source `redfish` instead",
    "no_value": "this platform has no power sensor for DCMI: read it by the source `redfish` instead",
}
GRANT = (
    'give the agent\'s group the right: put the line `KERNEL=="ipmi*", GROUP="joulefleet", MODE="0660"` into '
    "/etc/udev/rules.d/60-joulefleet-ipmi.rules and run `udevadm trigger`; who may write to the device may also switch "
    "the server off"
)


class IpmiConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    path: str = ""
    """The BMC's device; where empty, the first there is of DEVICES."""
    dmi: str = DMI
    """Folder in which the kernel tells what server this is."""
    period_s: Annotated[float, msgspec.Meta(ge=1)] = 5.0
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    """How long one answer of the BMC may take."""


class Refused(Exception):
    """The BMC gave no value."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(code, detail)


class Power(NamedTuple):
    """What the BMC says of the server's power."""

    watts: int
    stamp_s: int
    """When it was measured, by the BMC's clock; 0 where that tells no time."""


def power_of(answer: bytes) -> Power:
    """The power in an answer to "Get Power Reading", completion code first. Raises Refused."""
    body = body_of(answer)
    if len(body) < POWER_READING.size or body[0] != DCMI:
        raise Refused("malformed", f"DCMI's answer is not one: {answer[:24].hex(' ')}")
    _, watts, _, _, _, stamp_s, _, state = POWER_READING.unpack_from(body)
    if watts in (0, UNKNOWN_W):
        active = "activated" if state & ACTIVE else "deactivated"
        raise Refused("no_value", f"DCMI says {watts} W, {active}")
    return Power(watts, stamp_s if FIRST_CLOCK_S <= stamp_s < UNSPECIFIED_S else 0)


def clock_of(answer: bytes) -> int:
    """The BMC's time in seconds in an answer to "Get SEL Time"; 0 where it tells none."""
    try:
        (clock_s,) = struct.unpack_from("<I", body_of(answer))
    except (Refused, struct.error):
        return 0
    return int(clock_s) if FIRST_CLOCK_S <= clock_s < UNSPECIFIED_S else 0


def body_of(answer: bytes) -> bytes:
    """An answer behind its completion code. Raises Refused where that is an error."""
    if not answer:
        raise Refused("malformed", "the BMC's answer is empty")
    if answer[0]:
        code = REFUSALS.get(answer[0], f"ipmi_{answer[0]:02x}")
        raise Refused(code, f"the BMC refuses with completion code 0x{answer[0]:02x}")
    return answer[1:]


def age_s(stamp_s: int, clock_s: float) -> float:
    """How old a value of this stamp is; 0 where stamp or clock tell nothing that fits."""
    age = clock_s - stamp_s if stamp_s and clock_s else 0.0
    return age if 0 < age <= MAX_AGE_S else 0.0


class _Address(ctypes.Structure):
    _fields_ = (("addr_type", ctypes.c_int), ("channel", ctypes.c_short), ("lun", ctypes.c_ubyte))


class _Message(ctypes.Structure):
    _fields_ = (
        ("netfn", ctypes.c_ubyte),
        ("cmd", ctypes.c_ubyte),
        ("data_len", ctypes.c_ushort),
        ("data", ctypes.c_void_p),
    )


class _Request(ctypes.Structure):
    _fields_ = (("addr", ctypes.c_void_p), ("addr_len", ctypes.c_uint), ("msgid", ctypes.c_long), ("msg", _Message))


class _Receipt(ctypes.Structure):
    _fields_ = (
        ("recv_type", ctypes.c_int),
        ("addr", ctypes.c_void_p),
        ("addr_len", ctypes.c_uint),
        ("msgid", ctypes.c_long),
        ("msg", _Message),
    )


def _ioctl(direction: int, number: int, size: int) -> int:
    """asm-generic/ioctl.h, for IPMI's magic letter."""
    return direction << 30 | size << 16 | ord("i") << 8 | number


SEND_COMMAND = _ioctl(2, 13, ctypes.sizeof(_Request))
RECEIVE_MSG_TRUNC = _ioctl(3, 11, ctypes.sizeof(_Receipt))
"""Of the two ways to receive, the one that cuts a message too long, instead of leaving it in the queue for ever."""


class Bmc:
    """This server's BMC behind the kernel's IPMI driver. For one thread only."""

    def __init__(self, path: str, timeout_s: float, now_s: Callable[[], float]) -> None:
        """Raises OSError."""
        self.path = path
        self._timeout_s = timeout_s
        self._now_s = now_s
        self._number = 0
        self._fd = -1
        self._open()

    def ask(self, netfn: int, command: int, data: bytes = b"") -> bytes:
        """The answer, completion code first. Raises Refused and OSError; after an OSError the device is opened anew."""
        try:
            self._open()
            self._send(netfn, command, data)
            return self._answer(self._now_s() + self._timeout_s)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Give the device up until it is asked again."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()

    def _open(self) -> None:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def _send(self, netfn: int, command: int, data: bytes) -> None:
        self._number += 1
        address = _Address(SYSTEM_INTERFACE, BMC_CHANNEL, 0)
        content = ctypes.create_string_buffer(data, max(len(data), 1))
        message = _Message(netfn, command, len(data), ctypes.addressof(content))
        request = _Request(ctypes.addressof(address), ctypes.sizeof(address), self._number, message)
        fcntl.ioctl(self._fd, SEND_COMMAND, request)

    def _answer(self, until_s: float) -> bytes:
        """What answers the last request; events, and answers that came too late, are passed over."""
        waiting = select.poll()
        waiting.register(self._fd, select.POLLIN)
        while (left_s := until_s - self._now_s()) > 0 and waiting.poll(ns_to_ms(s_to_ns(left_s))):
            kind, number, data = self._receive()
            if kind == RESPONSE and number == self._number:
                return data
        raise Refused("timeout", f"the BMC gave no answer in {self._timeout_s:g} s")

    def _receive(self) -> tuple[int, int, bytes]:
        sender, content = ctypes.create_string_buffer(64), ctypes.create_string_buffer(272)
        message = _Message(0, 0, ctypes.sizeof(content), ctypes.addressof(content))
        receipt = _Receipt(0, ctypes.addressof(sender), ctypes.sizeof(sender), 0, message)
        fcntl.ioctl(self._fd, RECEIVE_MSG_TRUNC, receipt)
        return receipt.recv_type, receipt.msgid, content.raw[: receipt.msg.data_len]


class IpmiSource:
    """The power of this server as its BMC tells it."""

    def __init__(self, config: IpmiConfig, bmc: Bmc, now_s: Callable[[], float]) -> None:
        """Raises Refused and OSError where the BMC does not tell it now."""
        self.period_ns = s_to_ns(config.period_s)
        self.deadline_ns = s_to_ns(2 * config.timeout_s) + NS_PER_S
        self._bmc = bmc
        self._now_s = now_s
        self._still = Still()
        self._clock_s = self._clock_at_s = 0.0
        self._reads = 0
        self._power()
        self._meter = _meter(Path(bmc.path).name, Path(config.dmi), self.period_ns)
        self.declares: tuple[Meter | Engine, ...] = (self._meter,)

    def read(self) -> list[Reading]:
        """The power now, or why there is none."""
        try:
            return [self._reading(self._power())]
        except Refused as error:
            return [self._failure(error.code, error.detail)]
        except PermissionError as error:
            return [self._failure("permission", str(error))]
        except OSError as error:
            return [self._failure("read_failed", str(error))]

    def _reading(self, power: Power) -> Reading:
        stamp = str(power.stamp_s) if power.stamp_s else ""
        stopped = self._still.judge(self._now_s(), power.watts, stamp)
        if stopped:
            return self._failure(stopped, f"{power.watts} W, and its time stamp, stand still")
        trusted_s = 0 if self._still.stamp_lies else power.stamp_s
        age_ns = s_to_ns(age_s(trusted_s, self._bmc_s()))
        return MeterReading(meter=self._meter.id, age_ns=age_ns, power_mw=w_to_mw(power.watts))

    def _failure(self, code: str, detail: str) -> Failure:
        return Failure(subject=self._meter.id, code=code, detail=detail)

    def _power(self) -> Power:
        return power_of(self._bmc.ask(GROUP_EXTENSION, GET_POWER_READING, POWER_STATUS))

    def _bmc_s(self) -> float:
        """The BMC's clock now, asked rarely, since each question keeps its one channel busy; 0 where it tells none."""
        if self._reads % ASK_CLOCK_AGAIN_READS == 0:
            with contextlib.suppress(Refused, OSError):
                self._clock_s = clock_of(self._bmc.ask(STORAGE, GET_SEL_TIME))
                self._clock_at_s = self._now_s()
        self._reads += 1
        return self._clock_s + self._now_s() - self._clock_at_s if self._clock_s else 0.0


def _meter(name: str, dmi: Path, period_ns: int) -> Meter:
    uuid = _text(dmi / "product_uuid").lower()
    return Meter(
        id=name,
        kind="server",
        grade="integrated",
        sensor_class="platform",
        contains=("accelerator", "module", "cpu_package", "cpu_core", "dram", "psys", "host"),
        device=f"server:{uuid}" if uuid else "",
        hw_model=_text(dmi / "product_name"),
        period_ns=period_ns,
        max_power_mw=BOUND_MW,
        current="ac",
    )


def _text(file: Path) -> str:
    """The line in this file; empty where it may not be read."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _found(config: IpmiConfig) -> str:
    path = config.path or next((path for path in DEVICES if Path(path).exists()), "")
    if not path or not Path(path).exists():
        mend = "on bare metal with a BMC load the driver: modprobe -a ipmi_si ipmi_devintf; virtual machines have none"
        raise SourceUnavailable("absent", f"{path or DEVICES[0]} does not exist", mend)
    return path


def open(table: dict[str, Any]) -> Source:
    """This server's power by its BMC.

    Raises ConfigError, and SourceUnavailable where there is no BMC, it may not be asked, or it tells no power.
    """
    config = typed(table, IpmiConfig, "ipmi")
    path = _found(config)
    try:
        return IpmiSource(config, Bmc(path, config.timeout_s, time.monotonic), time.monotonic)
    except Refused as error:
        raise SourceUnavailable(error.code, error.detail, MENDS.get(error.code, "")) from error
    except PermissionError as error:
        raise SourceUnavailable("permission", f"{path} may not be opened for writing", GRANT) from error
    except OSError as error:
        raise SourceUnavailable("read_failed", f"{path}: {error.strerror}") from error
