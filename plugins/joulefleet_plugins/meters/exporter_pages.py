"""What the pages of exporters say of boards and sockets: which name is what, in which unit, of which physical thing.

One row of BOARDS is one kind of thing on one exporter's page. Rows of one board come several times (a MIG slice, a
partition, a pod each): they are one meter, and its value is the highest of theirs, since a slice that does not know
says 0, and those that do were read one after another. Neither a power nor a counter of 0 is a value: it is what most
exporters say where they know nothing.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import msgspec

from joulefleet import Kind, Meter
from joulefleet.units import j_to_uj, mj_to_uj, s_to_ns, w_to_mw
from joulefleet_plugins.interfaces.exposition import Page, Sample

HOSTS = ("Hostname", "hostname", "node_name", "host", "instance")
"""Labels that name the server, the first there is; dcgm-exporter wrote it in both ways."""
MOST = 2**62
"""Microjoules or milliwatts above this cannot be."""
BOUND_MW: Mapping[Kind, int] = {
    "accelerator": w_to_mw(2_500),
    "module": w_to_mw(3_500),
    "cpu_package": w_to_mw(800),
    "psys": w_to_mw(10_000),
}
"""Most power that a thing of this kind can have, where the page tells no limit that may be set."""
MODULE_KINDS: tuple[Kind, ...] = ("accelerator", "cpu_package", "cpu_core", "dram")
NVIDIA = r"(?:MIG-)?(GPU-[0-9a-fA-F-]+)(?:/.*)?"
"""A board's UUID, from its own or from that of a slice in the old form, which holds it."""
NOT_NVIDIA = r"(?!(?:MIG-)?GPU-)(.+)"
DCGM_BLANKS = ((0x7FFFFFF0, 0x7FFFFFFF), (2**47, 2**47 + 15), (2**63 - 16, 2**63))
"""Values by which DCGM says "not known", "not supported", "no right": 32 bits, floating point, 64 bits."""
AMD_BLANKS = ((0xFFFF, 0xFFFF), (0xFFFFFFFF, 0xFFFFFFFF))

Convert = Callable[[float], int]


class Series(NamedTuple):
    """A name on the page, and how its value becomes one of ours."""

    name: str
    to: Convert


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """One meter as a page shows it now."""

    meter: Meter
    host: str = ""
    """The server that its rows name; empty where they name none."""
    counter_uj: int | None = None
    power_mw: int | None = None
    gauges: dict[str, float] = {}


def _mj(value: float) -> int:
    return mj_to_uj(round(value))


class Boards(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of thing on the pages of one exporter."""

    exporter: str
    names: tuple[str, ...]
    """Labels that tell which one it is; the first that fits `pattern` counts."""
    pattern: str = "(.+)"
    """Its first group is the name."""
    counters: tuple[Series, ...] = ()
    """For each thing the first that tells a value."""
    gauges: tuple[Series, ...] = ()
    limits: tuple[Series, ...] = ()
    """Power limit that holds now."""
    highest: tuple[Series, ...] = ()
    """Highest power limit that may be set."""
    beside: Mapping[str, str] = {}
    """Gauges without a part in the energy: our name, and the page's."""
    kind: Kind = "accelerator"
    modules: tuple[str, ...] = ()
    """Words of models whose figure holds the CPU and its memory too."""
    id: str = "{}"
    """Of the meter, behind the exporter's name; `{}` is the name."""
    device: str = ""
    """Identity by which other sources know it; empty where the page tells none."""
    model: tuple[str, ...] = ()
    driver: str = ""
    part: str = ""
    """Label that numbers the parts of a board: only part 0 tells for it."""
    prefixed: bool = False
    """Whether another word may stand before the names, which operators can choose."""
    blanks: tuple[tuple[int, int], ...] = ()
    resolution_uj: int = 1
    refresh_ns: int = 0
    restarts_at_zero: bool = False

    def tell(self, page: Page) -> list[Told]:
        """Every such thing on the page, those without a value too."""
        rows = {one.name: self._rows(page, one.name) for one in (*self.counters, *self.gauges)}
        first = {key: samples[0].labels for found in rows.values() for key, samples in found.items()}
        tables = [self._values(rows, series) for series in (self.counters, self.gauges)]
        beside = {ours: self._plain(self._rows(page, theirs)) for ours, theirs in self.beside.items()}
        limits = [self._values(self._all(page, series), series) for series in (self.limits, self.highest)]
        return [
            self._told(key, labels, [one.get(key) for one in (*tables, *limits)], _of(beside, key))
            for key, labels in sorted(first.items(), key=lambda item: item[0])
        ]

    def _all(self, page: Page, series: tuple[Series, ...]) -> dict[str, dict["Key", list[Sample]]]:
        return {one.name: self._rows(page, one.name) for one in series}

    def _rows(self, page: Page, name: str) -> dict["Key", list[Sample]]:
        found: dict[Key, list[Sample]] = {}
        for sample in self._samples(page, name):
            key = self._key(sample.labels)
            if key is not None:
                found.setdefault(key, []).append(sample)
        return found

    def _samples(self, page: Page, name: str) -> list[Sample]:
        if not self.prefixed:
            return page.samples.get(name, [])
        alike = (one for one in page.samples if one.lower().endswith(name))
        return page.samples.get(min(alike, key=len, default=""), [])

    def _key(self, labels: Mapping[str, str]) -> "Key | None":
        if labels.get(self.part, "0") not in ("", "0"):
            return None
        matches = (re.compile(self.pattern).fullmatch(labels.get(name, "")) for name in self.names)
        return next((Key(host_of(labels), one[1]) for one in matches if one), None)

    def _values(self, rows: Mapping[str, Mapping["Key", list[Sample]]], series: tuple[Series, ...]) -> dict["Key", int]:
        found: dict[Key, int] = {}
        for one in series:
            for key, samples in rows[one.name].items():
                values = [value for sample in samples if (value := self._value(sample, one.to)) is not None]
                if values:
                    found.setdefault(key, max(values))
        return found

    def _value(self, sample: Sample, to: Convert) -> int | None:
        if any(low <= sample.value <= high for low, high in self.blanks):
            return None
        return value_of(sample.value, to)

    def _plain(self, rows: Mapping["Key", list[Sample]]) -> dict["Key", float]:
        """Values such as they are; a temperature or a share is neither huge nor below 0 in a machine that runs."""
        return {key: float(of[0].value) for key, of in rows.items() if 0 <= of[0].value < 1000}

    def _told(self, key: "Key", labels: Mapping[str, str], values: list[int | None], beside: dict[str, float]) -> Told:
        counter_uj, power_mw, limit_mw, highest_mw = values
        model = next((labels[name] for name in self.model if labels.get(name)), "")
        kind: Kind = "module" if any(word in model for word in self.modules) else self.kind
        meter = Meter(
            id=meter_id(self.exporter, self.id.format(key.name)),
            kind=kind,
            grade="integrated" if counter_uj is None else "counter",
            sensor_class="onboard",
            contains=MODULE_KINDS if kind == "module" else (),
            device=self.device.format(key.name),
            hw_model=model,
            resolution_uj=0 if counter_uj is None else self.resolution_uj,
            refresh_ns=self.refresh_ns,
            max_power_mw=highest_mw or BOUND_MW[kind],
            restarts_at_zero=self.restarts_at_zero and counter_uj is not None,
            driver=labels.get(self.driver, ""),
            power_limit_mw=limit_mw or 0,
        )
        if kind == "module" and counter_uj is not None:
            # Whether the gauge beside it is of the module or of its accelerator alone is not said.
            power_mw = None
        return Told(meter=meter, host=key.host, counter_uj=counter_uj, power_mw=power_mw, gauges=beside)


class Key(NamedTuple):
    """Which thing, of which server."""

    host: str
    name: str


def meter_id(exporter: str, name: str) -> str:
    """Id of a meter, by its name on the page; sorts behind those of the drivers' own sources, which are preferred."""
    return f"via-{exporter}-{name}"


def host_of(labels: Mapping[str, str]) -> str:
    """The server that a row names; empty where it names none."""
    return next((labels[name] for name in HOSTS if labels.get(name)), "")


def value_of(value: float, to: Convert) -> int | None:
    """A power or an energy in our unit; None for NaN, infinity, what is not above 0, and what cannot be."""
    return to(value) if 0 < value <= MOST and to(value) <= MOST else None


def _of(tables: Mapping[str, Mapping[Key, float]], key: Key) -> dict[str, float]:
    return {name: table[key] for name, table in tables.items() if key in table}


_board = partial(Boards, pattern=NVIDIA, device="{}")
_dcgm = partial(Boards, exporter="dcgm", blanks=DCGM_BLANKS, refresh_ns=s_to_ns(30))
_all_smi = partial(
    Boards,
    exporter="all-smi",
    names=("gpu_uuid", "uuid"),
    # Its own `energy_consumed_joules_total` takes what it could not read for 0 W, so that the gauge is better.
    counters=(Series("all_smi_gpu_energy_hw_millijoules_total", _mj),),
    gauges=(Series("all_smi_gpu_power_consumption_watts", w_to_mw),),
    limits=(Series("all_smi_gpu_power_limit_current_watts", w_to_mw),),
    highest=(Series("all_smi_gpu_power_limit_max_watts", w_to_mw),),
    beside={"utilisation_pct": "all_smi_gpu_utilization", "temperature_c": "all_smi_gpu_temperature_celsius"},
    model=("gpu", "gpu_name"),
    modules=("GH200",),
    resolution_uj=mj_to_uj(1),
    refresh_ns=s_to_ns(3),
    restarts_at_zero=True,
)

BOARDS: tuple[Boards, ...] = (
    _all_smi(pattern=NVIDIA, device="{}"),
    _all_smi(pattern=NOT_NVIDIA),
    Boards(
        exporter="amd",
        names=("serial_number", "gpu_id"),
        pattern="(?!N/A$)(.+)",
        counters=(Series("gpu_energy_consumed", round),),
        gauges=(
            Series("gpu_package_power", w_to_mw),
            Series("gpu_average_package_power", w_to_mw),
            Series("gpu_power_usage", w_to_mw),
        ),
        beside={"utilisation_pct": "gpu_gfx_activity", "temperature_c": "gpu_junction_temperature"},
        model=("card_model", "card_series"),
        modules=("MI300A",),
        driver="driver_version",
        part="gpu_partition_id",
        prefixed=True,
        blanks=AMD_BLANKS,
        resolution_uj=16,
        refresh_ns=s_to_ns(5),
        restarts_at_zero=True,
    ),
    _dcgm(
        names=("UUID", "uuid"),
        pattern=NVIDIA,
        device="{}",
        counters=(Series("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", _mj),),
        gauges=(
            Series("DCGM_FI_DEV_POWER_USAGE", w_to_mw),
            Series("DCGM_FI_DEV_BOARD_POWER_WATTS", w_to_mw),
            Series("DCGM_FI_DEV_POWER_USAGE_INSTANT", w_to_mw),
            Series("DCGM_FI_DEV_BOARD_POWER_RAW_WATTS", w_to_mw),
        ),
        limits=(
            Series("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", w_to_mw),
            Series("DCGM_FI_DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS", w_to_mw),
        ),
        highest=(Series("DCGM_FI_DEV_POWER_MGMT_LIMIT_MAX", w_to_mw),),
        beside={"utilisation_pct": "DCGM_FI_DEV_GPU_UTIL", "temperature_c": "DCGM_FI_DEV_GPU_TEMP"},
        model=("modelName",),
        modules=("GH200",),
        driver="DCGM_FI_DRIVER_VERSION",
        resolution_uj=mj_to_uj(1),
        restarts_at_zero=True,
    ),
    # The CPU rail of a Grace socket: without its memory. The whole module is a cross-check only, since its scope is
    # not the same on all platforms; both under the names that `acpi_power_meter` has for them.
    _dcgm(
        names=("cpu",),
        kind="cpu_package",
        id="cpu-{}",
        device="package-{}/cpu",
        gauges=(Series("DCGM_FI_DEV_CPU_POWER_UTIL_CURRENT", w_to_mw), Series("DCGM_FI_DEV_CPU_POWER_WATTS", w_to_mw)),
    ),
    _dcgm(
        names=("cpu",),
        kind="psys",
        id="module-{}",
        device="module-{}",
        gauges=(Series("DCGM_FI_DEV_MODULE_POWER_UTIL_CURRENT", w_to_mw),),
    ),
    Boards(
        exporter="habana",
        names=("UUID", "Serial", "device"),
        # HLML tells millijoules and the exporter passes them on; its `accelerator_power_usage_watts` is in milliwatts.
        counters=(Series("habanalabs_energy", _mj),),
        gauges=(Series("habanalabs_power_mW", round),),
        limits=(Series("habanalabs_power_default_limit_mW", round),),
        beside={"utilisation_pct": "habanalabs_utilization", "temperature_c": "habanalabs_temperature_onchip"},
        driver="driver",
        resolution_uj=mj_to_uj(1),
        refresh_ns=s_to_ns(5),
        restarts_at_zero=True,
    ),
    _board(
        exporter="kepler",
        names=("gpu_uuid",),
        counters=(Series("kepler_node_gpu_joules_total", j_to_uj),),
        gauges=(Series("kepler_node_gpu_watts", w_to_mw),),
        model=("gpu_name",),
        modules=("GH200",),
        resolution_uj=mj_to_uj(1),
        refresh_ns=s_to_ns(5),
    ),
    _board(
        exporter="triton",
        names=("gpu_uuid",),
        counters=(Series("nv_energy_consumption", j_to_uj),),
        gauges=(Series("nv_gpu_power_usage", w_to_mw),),
        limits=(Series("nv_gpu_power_limit", w_to_mw),),
        resolution_uj=mj_to_uj(1),
        refresh_ns=s_to_ns(2),
        restarts_at_zero=True,
    ),
)
