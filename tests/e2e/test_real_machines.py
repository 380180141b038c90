"""Whole machines as their sources declare them: what each boundary is the sum of, by hand."""

from typing import Any

import msgspec
import pytest

from joulefleet.describe import Meter
from joulefleet.topology import covers
from joulefleet.units import j_to_uj, s_to_ns, w_to_mw, wh_to_uj
from joulefleet_plugins.meters import acpi_power_meter, amdsmi, hwmon, nvml_board, rapl, redfish, snmp

STEP_NS = s_to_ns(60)
GPUS = [f"GPU-{k}" for k in range(8)]
PCI = [f"0000:{bus:02x}:00.0" for bus in range(5, 13)]
Sums = dict[str, list[str]]


def meter(name: str, kind: str = "accelerator", **declared: Any) -> Meter:
    return msgspec.convert(
        {"id": name, "kind": kind, "grade": "counter", "sensor_class": "onboard", "device": name, **declared},
        Meter,
        strict=False,
    )


def of_rapl(sockets: int, *, memory: bool = True, perf: bool = False) -> list[Meter]:
    """The zones of `rapl`, or of `rapl_perf` with the same identities."""
    kinds = {"": "cpu_package", "/core": "cpu_core"} | ({"/dram": "dram"} if memory else {})
    found = []
    for zone, kind in ((f"package-{socket}{part}", kind) for socket in range(sockets) for part, kind in kinds.items()):
        inside = ("energy-" if perf else "") + zone.removesuffix("/core")
        inside = inside if kind == "cpu_core" else ""
        found.append(meter(f"energy-{zone}" if perf else zone, kind, device=zone, inside=inside))
    return found


def of_grace(sockets: int) -> list[Meter]:
    """The rails that `acpi_power_meter` declares."""
    found = []
    for socket in range(sockets):
        for rail in acpi_power_meter.RAILS:
            if rail.name == "dram":
                continue
            told = {"grade": "integrated", "device": rail.device.format(socket)}
            contains = () if sockets > 1 and rail.kind == "psys" else rail.contains
            inside = f"acpi-{rail.inside}-{socket}" if rail.inside else ""
            found.append(meter(f"acpi-{rail.name}-{socket}", rail.kind, contains=contains, inside=inside, **told))
    return found


def whole(name: str, **declared: Any) -> Meter:
    """A server's input by its BMC."""
    told = {"grade": "integrated", "sensor_class": "platform", "contains": redfish.PARTS, "device": "server:uuid"}
    return meter(name, **{"kind": "server", **told, **declared})


def of_pdu(feeds: int, step_uj: int) -> list[Meter]:
    """What `snmp` declares for a server with so many outlets, each with a counter of this step."""
    fed = {"device": "pdu:outlets", "contains": snmp.PARTS, "max_power_mw": feeds * w_to_mw(5_000)}
    power = whole("pdu", **fed)
    return [power, whole("pdu/energy", **fed, grade="counter", resolution_uj=feeds * step_uj)]


def of_module(name: str, **declared: Any) -> Meter:
    return meter(name, "module", contains=nvml_board.MODULE_KINDS, **declared)


def host() -> Meter:
    held = ("cpu_package", "cpu_core", "dram", "psys")
    return meter("host", "host", grade="modelled", sensor_class="modelled", contains=held, device="")


def cray(kind: str, name: str, **declared: Any) -> Meter:
    return meter(f"cray-{name}", kind, sensor_class="platform", resolution_uj=j_to_uj(1), **declared)


REDFISH_GPUS = [meter(f"redfish/GPU_{k}", device=gpu, sensor_class="onboard") for k, gpu in enumerate(GPUS)]
NVML = [meter(gpu) for gpu in GPUS]
TRAY = [meter(gpu, inside=f"GPU-{k // 2 * 2}/module") for k, gpu in enumerate(GPUS[:4])]
MODULES = [of_module(f"GPU-{k}/module", grade="integrated", device="") for k in (0, 2)]
HOPPERS = [of_module(gpu) for gpu in GPUS[:4]]
HOPPER_GPUS = [meter(f"{gpu}/gpu", grade="integrated", device=gpu, inside=gpu) for gpu in GPUS[:4]]
AMDSMI = [meter(f"amd-{place}", device=place) for place in PCI]
AMDGPU = [meter(f"amdgpu-{place}", grade="integrated", device=place) for place in PCI]
SOCKETS = [meter(f"amd-{place}", "module", device=place, contains=amdsmi.MODULE_KINDS) for place in PCI[:4]]
AMDGPU_SOCKETS = [
    meter(f"amdgpu-{place}", "module", grade="integrated", device=place, contains=hwmon.HELD["module"])
    for place in PCI[:4]
]
CARDS = {"grade": "residual", "sensor_class": "modelled", "inside": "redfish/1", "device": ""}
NEURON = [meter(f"neuron{k}", grade="percent", sensor_class="modelled") for k in range(4)]
GAUDI = [meter(f"gaudi-{k}", grade="integrated") for k in range(8)]
PSYS = meter("psys", "psys", contains=rapl.PSYS_KINDS)

CPUS = ["package-0", "package-1"]
MEMORY = ["package-0/dram", "package-1/dram"]
PERF = [f"energy-{zone}" for zone in (*CPUS, *MEMORY)]
AMD_IDS = [f"amd-{place}" for place in PCI]

MACHINES: dict[str, tuple[list[Meter], Sums]] = {
    "DGX H100 by everything": (
        [
            *NVML,
            *REDFISH_GPUS,
            *of_rapl(2),
            *of_rapl(2, perf=True),
            PSYS,
            whole("redfish/1"),
            whole("ipmi0"),
            *of_pdu(6, wh_to_uj(1)),
        ],
        {"accelerator": GPUS, "compute": [*GPUS, *PERF], "server": ["pdu/energy"]},
    ),
    "DGX H100 on outlets that count tenths of a kilowatt-hour": (
        [*NVML, *of_rapl(2), whole("redfish/1"), *of_pdu(6, wh_to_uj(100))],
        {"accelerator": GPUS, "compute": [*GPUS, *CPUS, *MEMORY], "server": ["pdu"]},
    ),
    "DGX H100 whose BMC counts joules": (
        [
            *NVML,
            whole("redfish/1", grade="counter"),
            whole("ipmi0"),
            whole("acpi-server", device=""),
            *of_pdu(6, wh_to_uj(100)),
        ],
        {"accelerator": GPUS, "server": ["redfish/1"]},
    ),
    "MI300X by library and hwmon": (
        [
            *AMDSMI,
            *AMDGPU,
            *of_rapl(2, memory=False),
            meter("amd_energy/energy129", "cpu_package", device="package-0"),
            whole("redfish/1"),
        ],
        {"accelerator": AMD_IDS, "compute": [*AMD_IDS, "amd_energy/energy129", "package-1"], "server": ["redfish/1"]},
    ),
    "GB200 tray": (
        [*TRAY, *MODULES, *of_grace(2), *REDFISH_GPUS[:4], whole("redfish/1")],
        {"accelerator": GPUS[:4], "compute": ["GPU-0/module", "GPU-2/module"], "server": ["redfish/1"]},
    ),
    "GB200 tray whose driver tells no module": (
        [*NVML[:4], *of_grace(2), whole("redfish/1")],
        {"accelerator": GPUS[:4], "compute": [*GPUS[:4], "acpi-grace-0", "acpi-grace-1"], "server": ["redfish/1"]},
    ),
    "GH200": (
        [HOPPERS[0], HOPPER_GPUS[0], *of_grace(1), whole("redfish/1")],
        {"accelerator": ["GPU-0/gpu"], "compute": ["GPU-0"], "server": ["redfish/1"]},
    ),
    "GH200 whose driver does not tell its GPU alone": (
        [HOPPERS[0], *of_grace(1), REDFISH_GPUS[0]],
        {"accelerator": ["redfish/GPU_0"], "compute": ["GPU-0"]},
    ),
    "HPE Cray EX254n, four GH200": (
        [
            *HOPPERS,
            *HOPPER_GPUS,
            *(cray("cpu_package", f"cpu{k}", device=f"package-{k}") for k in range(4)),
            cray("server", "node"),
        ],
        {"accelerator": [f"{gpu}/gpu" for gpu in GPUS[:4]], "compute": GPUS[:4], "server": ["cray-node"]},
    ),
    "HPE Cray EX235a, four MI250X": (
        [
            *AMDSMI[:4],
            *(cray("accelerator", f"accel{k}", device=PCI[k]) for k in range(4)),
            *of_rapl(1, memory=False),
            cray("cpu_package", "cpu", device="package-0"),
            cray("dram", "memory", device="package-0/dram"),
            cray("server", "node"),
        ],
        {
            "accelerator": [f"cray-accel{k}" for k in range(4)],
            "compute": [*(f"cray-accel{k}" for k in range(4)), "cray-cpu", "cray-memory"],
            "server": ["cray-node"],
        },
    ),
    "HPE Cray EX255a, four MI300A": (
        [
            *SOCKETS,
            *AMDGPU_SOCKETS,
            *of_rapl(4, memory=False),
            cray("server", "node"),
            cray("psys", "cpu", contains=("cpu_package", "cpu_core")),
            cray("psys", "memory", contains=("dram",)),
        ],
        {"compute": AMD_IDS[:4], "server": ["cray-node"]},
    ),
    "trn1, rented": (
        [*NEURON, host()],
        {"accelerator": [one.id for one in NEURON], "server": ["host", *(one.id for one in NEURON)]},
    ),
    "Gaudi 3 by hl-smi": (
        [*GAUDI, *of_rapl(2), whole("redfish/1"), whole("ipmi0")],
        {
            "accelerator": [one.id for one in GAUDI],
            "compute": [*(one.id for one in GAUDI), *CPUS, *MEMORY],
            "server": ["ipmi0"],
        },
    ),
    "Groq, what its server leaves": (
        [meter("groq-lpu", **CARDS), *of_rapl(2), whole("redfish/1")],
        {"server": ["redfish/1"]},
    ),
    "Groq beside a GPU": (
        [meter("groq-lpu", **CARDS), NVML[0], *of_rapl(2), whole("redfish/1")],
        {"accelerator": ["GPU-0"], "server": ["redfish/1"]},
    ),
    "Arc beside a client's CPU": (
        [
            meter("xe-card", device=PCI[0]),
            meter("xe-card/energy2", device=f"{PCI[0]}/energy2", inside="xe-card"),
            *of_rapl(1),
            PSYS,
        ],
        {"accelerator": ["xe-card"], "compute": ["xe-card", "package-0", "package-0/dram"]},
    ),
    "a node of an enclosure that tells its declared share": (
        [
            *NVML,
            host(),
            whole("pdu", grade="modelled", sensor_class="modelled", inside="pdu/enclosure", device=""),
            whole("pdu/enclosure", kind="enclosure", contains=("server", *snmp.PARTS)),
        ],
        {"accelerator": GPUS, "server": ["pdu"]},
    ),
    "a virtual machine": ([host()], {"server": ["host"]}),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_each_boundary_of_a_machine_is_the_sum_of_these(machine: str) -> None:
    declared, expected = MACHINES[machine]
    for order in (declared, declared[::-1]):
        found = {cover.boundary: sorted(one.id for one in cover.meters) for cover in covers(order, STEP_NS)}
        assert found == {boundary: sorted(ids) for boundary, ids in expected.items()}
