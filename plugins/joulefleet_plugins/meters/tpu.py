"""Google TPUs: power modelled from the duty cycle that the TPU runtime tells, and a declared curve.

Asks the runtime's metric service (`tpu.monitoring.runtime.RuntimeMetricService`, gRPC on localhost:8431), which is
there as long as a process holds the chips. No public interface of a TPU tells power. So watts are a straight line from
idle to peak by duty cycle; both are declared, or Google's measured ones where it published them, as for TPU v4.

The few fields that are needed are read from the wire by hand: code generated from the service's definition, and the
runtime that it needs, would be many times this file.
"""

import importlib
import math
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from joulefleet import ConfigError, Engine, Failure, Meter, MeterReading, Reading, Source, SourceUnavailable, typed
from joulefleet.units import NS_PER_S, s_to_ns, w_to_mw

TRIED = "faithful fake"
PCI = "/sys/bus/pci/devices"
VENDOR = "0x1ae0"
GENERATIONS = {"0x005e": "v4", "0x0062": "v5p", "0x0063": "v5e", "0x006f": "v6e", "0x0076": "v7x"}
"""Generation by PCI device; Google's network cards and disks bear the same vendor."""

METHOD = "/tpu.monitoring.runtime.RuntimeMetricService/GetRuntimeMetric"
DUTY_CYCLE = b"tpu.runtime.tensorcore.dutycycle.percent"
ADDRESS = "localhost:8431"
REFRESH_NS = s_to_ns(5)
"""The runtime renews the duty cycle each 1 s to 5 s."""
STALE_NS = s_to_ns(60)
TIMEOUT_S = 1.0
OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5000),
)
"""No proxy on the way to this host; and a runtime that comes is found within seconds."""

CODES = {
    "UNAVAILABLE": "no_runtime",
    "DEADLINE_EXCEEDED": "timeout",
    "NOT_FOUND": "no_metric",
    "INVALID_ARGUMENT": "no_metric",
    "UNIMPLEMENTED": "no_metric",
    "PERMISSION_DENIED": "permission",
}
"""Reason code by the name of gRPC's status; others are `rpc_failed`."""

Watts = Annotated[float, msgspec.Meta(ge=0, le=10_000)]


class Curve(msgspec.Struct, frozen=True):
    """Power of one chip in watts, idle and at full duty, and where it is from."""

    idle_w: float
    peak_w: float
    source: str


CURVES = {
    "v4": Curve(90, 192, "Google's measured minimum and maximum, cloud.google.com/tpu/docs/v4; its mean is 170 W")
}
"""Google published a measured power for this generation only."""


class TpuConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The source's part of the agent's config."""

    addresses: tuple[str, ...] = (ADDRESS,)
    """Of the metric services on this host, one for each process that holds chips."""
    chips: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 0
    """Chips of this host; 0 counts those on its PCI bus."""
    idle_w: Watts = 0
    """Power of one chip at no duty; with `peak_w`, and both 0 for the table's."""
    peak_w: Watts = 0
    basis: str = ""
    """Where these are from."""
    pci: str = PCI
    period_s: Annotated[float, msgspec.Meta(ge=1)] = 5.0


class Duty(msgspec.Struct, frozen=True):
    """The duty cycle of one device, and when it was made, by the wall clock; 0 where that is not told."""

    percent: float
    at_ns: int


class Fault(Exception):
    """There is no duty cycle now."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(code, detail)


Ask = Callable[[bytes], bytes]
"""Sends a request to one service and gives its answer. Raises Fault."""


class TpuSource:
    """All TPU chips of this host."""

    def __init__(self, chips: tuple[Meter, ...], asks: tuple[Ask, ...], now_ns: Callable[[], int]) -> None:
        """`now_ns` is the wall clock, by which the runtime stamps."""
        self.declares: tuple[Meter | Engine, ...] = chips
        self.period_ns = chips[0].period_ns
        self.deadline_ns = s_to_ns(2 * TIMEOUT_S * len(asks)) + NS_PER_S
        self._chips = chips
        self._asks = asks
        self._now_ns = now_ns

    def read(self) -> list[Reading]:
        """The modelled power of every chip; a Failure for those without a duty cycle."""
        told: dict[int, Duty] = {}
        faults = [Fault("no_value", "the TPU runtime tells of no device")]
        for ask in self._asks:
            try:
                told |= duties(ask(request(DUTY_CYCLE)))
            except Fault as error:
                faults.append(error)
        now_ns = self._now_ns()
        devices = by_chip(told, len(self._chips))
        return [self._read(chip, own, now_ns, faults[-1]) for chip, own in zip(self._chips, devices, strict=True)]

    def _read(self, chip: Meter, devices: list[Duty], now_ns: int, fault: Fault) -> Reading:
        if not devices:
            return Failure(subject=chip.id, code=fault.code, detail=fault.detail)
        made_ns = min(one.at_ns or now_ns for one in devices)
        if abs(now_ns - made_ns) > STALE_NS:
            return Failure(subject=chip.id, code="stale", detail="the runtime does not renew the duty cycle")
        percent = sum(one.percent for one in devices) / len(devices)
        if not all(0 <= one.percent <= 100 for one in devices):
            return Failure(subject=chip.id, code="implausible", detail=f"a duty cycle of {percent:g} %")
        return MeterReading(
            meter=chip.id,
            power_mw=chip.idle_mw + round((chip.max_power_mw - chip.idle_mw) * percent / 100),
            age_ns=max(now_ns - made_ns, 0),
            gauges={"utilisation_pct": percent},
        )


def by_chip(told: dict[int, Duty], chips: int) -> list[list[Duty]]:
    """The duty cycles of each chip's devices; empty for a chip of which one is missing.

    A chip has one device or two. Where all are told they belong to the chips in their order, whatever their numbers.
    """
    numbers = sorted(told)
    if len(told) % chips == 0:
        each, places = len(told) // chips, dict(enumerate(numbers))
    else:
        each, places = numbers[-1] // chips + 1, {number: number for number in numbers}
    wanted = [range(chip * each, (chip + 1) * each) for chip in range(chips)]
    return [[told[places[at]] for at in own] if all(at in places for at in own) else [] for own in wanted]


def request(metric: bytes) -> bytes:
    """A MetricRequest: field 1 is the metric's name."""
    return b"\x0a" + bytes([len(metric)]) + metric


def duties(answer: bytes) -> dict[int, Duty]:
    """Duty cycle by device from a MetricResponse. Raises Fault where it is none.

    MetricResponse.metric (1) > TPUMetric.metrics (3) > Metric: attribute (1) > value (2) > int_attr (3);
    timestamp (2) > seconds (1) and nanos (2); gauge (3) > as_double (1) or as_int (2).
    """
    try:
        found = [_duty(metric) for outer in _messages(answer, 1) for metric in _messages(outer, 3)]
    except (IndexError, OverflowError, struct.error, ValueError) as error:
        raise Fault("rubbish", f"the TPU runtime's answer cannot be read: {error}") from error
    return {device: duty for device, duty in found if device is not None and not math.isnan(duty.percent)}


def _duty(metric: bytes) -> tuple[int | None, Duty]:
    values = [value for attribute in _messages(metric, 1) for value in _messages(attribute, 2)]
    device = next((int(number) for value in values for number in _numbers(value, 3)), None)
    gauges = [number for gauge in _messages(metric, 3) for field in (1, 2) for number in _numbers(gauge, field)]
    stamps = [s_to_ns(sum(_numbers(one, 1))) + int(sum(_numbers(one, 2))) for one in _messages(metric, 2)]
    return device, Duty(next(iter(gauges), math.nan), next(iter(stamps), 0))


def _messages(message: bytes, field: int) -> list[bytes]:
    return [value for number, value in fields(message) if number == field and isinstance(value, bytes)]


def _numbers(message: bytes, field: int) -> list[float]:
    return [value for number, value in fields(message) if number == field and not isinstance(value, bytes)]


def fields(message: bytes) -> Iterator[tuple[int, float | bytes]]:
    """Number and value of each field of a protobuf message. Raises IndexError, struct.error or ValueError."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
        elif key & 7 == 1:
            yield key >> 3, float(struct.unpack_from("<d", message, at)[0])
            at += 8
        elif key & 7 == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError("it is cut short")
            yield key >> 3, message[at : at + length]
            at += length
        elif key & 7 == 5:
            yield key >> 3, float(struct.unpack_from("<f", message, at)[0])
            at += 4
        else:
            raise ValueError(f"no such type of field: {key & 7}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at this place and the place behind it: seven bits a byte, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")


def _chips_on(pci: Path) -> list[str]:
    """Generations of the TPU chips on the PCI bus."""
    devices = [_text(one / "device") for one in sorted(pci.glob("*")) if _text(one / "vendor") == VENDOR]
    return [GENERATIONS[device] for device in devices if device in GENERATIONS]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _curve(generation: str, config: TpuConfig) -> Curve:
    """Raises ConfigError, and SourceUnavailable where no curve is known."""
    if config.idle_w or config.peak_w:
        if not 0 < config.idle_w < config.peak_w:
            raise ConfigError("tpu", "idle_w", "more than 0 and less than peak_w, of one chip")
        return Curve(config.idle_w, config.peak_w, config.basis or "idle_w and peak_w of the agent's configuration")
    if generation in CURVES:
        return CURVES[generation]
    mend = "set idle_w and peak_w of one chip, and where they are from in basis; Google publishes none"
    raise SourceUnavailable("no_curve", f"no power of a TPU {generation} is known".replace("  ", " "), mend)


def meters(config: TpuConfig) -> tuple[Meter, ...]:
    """One meter a chip. Raises SourceUnavailable where there are none or their curve is not known, ConfigError."""
    found = _chips_on(Path(config.pci))
    if not found and not config.chips:
        mend = "on a TPU VM whose PCI bus is hidden, set chips"
        raise SourceUnavailable("absent", f"no TPU in {config.pci}", mend)
    generation = found[0] if found else ""
    curve = _curve(generation, config)
    return tuple(_meter(number, generation, curve, config) for number in range(config.chips or len(found)))


def _meter(number: int, generation: str, curve: Curve, config: TpuConfig) -> Meter:
    return Meter(
        id=f"tpu{number}",
        kind="accelerator",
        grade="modelled",
        sensor_class="modelled",
        hw_model=f"Google TPU {generation}".strip(),
        refresh_ns=REFRESH_NS,
        period_ns=s_to_ns(config.period_s),
        max_power_mw=w_to_mw(curve.peak_w),
        basis=f"duty cycle between {curve.idle_w:g} W and {curve.peak_w:g} W ({curve.source})",
        idle_mw=w_to_mw(curve.idle_w),
    )


def _ask(grpc: Any, address: str) -> Ask:
    """Asks the service at this address, over a channel that is kept."""
    call = grpc.insecure_channel(address, options=OPTIONS).unary_unary(METHOD)

    def ask(message: bytes) -> bytes:
        try:
            return bytes(call(message, timeout=TIMEOUT_S))
        except grpc.RpcError as error:
            status = error.code().name
            raise Fault(CODES.get(status, "rpc_failed"), f"{address}: {status}: {error.details()}") from error

    return ask


def opened(config: TpuConfig, now_ns: Callable[[], int]) -> TpuSource:
    """All TPU chips of this host. Raises ConfigError, and SourceUnavailable where they or the package are missing."""
    chips = meters(config)
    try:
        grpc = importlib.import_module("grpc")
    except ImportError as error:
        mend = "pip install 'joulefleet[tpu]'"
        raise SourceUnavailable("package_missing", "the package grpcio is not installed", mend) from error
    return TpuSource(chips, tuple(_ask(grpc, address) for address in config.addresses), now_ns)


def open(table: dict[str, Any]) -> Source:
    """All TPU chips of this host. Raises ConfigError, and SourceUnavailable where they or the package are missing."""
    return opened(typed(table, TpuConfig, "tpu"), time.time_ns)
