"""Declared accelerators: each profile that comes with us over its route, residuals, and a user's own chip."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.acpi_power import AcpiPower
from fixtures.powercap import Tree
from fixtures.web_service import WebService
from joulefleet.config import ConfigError
from joulefleet.describe import Engine, Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import Source, SourceUnavailable
from joulefleet_plugins.meters import declared
from joulefleet_plugins.meters.profile import load_profile, shipped

PAGES = Path(__file__).parents[3] / "docs/meters"
Make = Callable[[str], str]

GAUDI = """\
01P0-HL2080A0-15-TNBS84-11-02-03, HL-225, 1.22.1-97ec1a4, 97 W, 600 W, 31 C, 4 %
01P0-HL2080A0-15-TNBS84-11-02-04, HL-225, 1.22.1-97ec1a4, N/A, 600 W, N/A, N/A
"""
FURIOSA = """\
+------+--------+---------------------+---------+--------+--------------+
| Arch | Device | Firmware            | Temp.   | Power  | PCI-BDF      |
+------+--------+---------------------+---------+--------+--------------+
| RNGD | npu0   | 1.7.0, 0123456789ab | 41.00\u00b0C | 44 W   | 0000:0a:00.0 |
+------+--------+---------------------+---------+--------+--------------+
| rngd | npu1   | 1.0+a | 1.0+b       | 30.10\u00b0C | 36.50 W | 0000:0b:00.0 |
+------+--------+---------------------+---------+--------+--------------+
"""
RBLN = json.dumps(
    {
        "KMD_version": "2.0.1",
        "devices": [
            {
                "npu": "0",
                "name": "RBLN-CA25",
                "uuid": "u0",
                "temperature": "40C",
                "card_power": "81.5W",
                "util": "55.0",
            },
            {"npu": "1", "name": "RBLN-CA25", "uuid": "u1", "temperature": "25C", "card_power": "6.2W", "util": "0.0"},
        ],
        "contexts": [],
    }
)
DCMI = """
    Instantaneous power reading:                   612 Watts
    Minimum during sampling period:                 20 Watts
    IPMI timestamp: 11/20/26 13:29:17 UTC    Sampling period: 00065530 Seconds.
    Power reading state is:                   activated

"""
OUTPUTS: dict[str, tuple[str, dict[str, float]]] = {
    "gaudi-2": (GAUDI, {"gaudi-01P0-HL2080A0-15-TNBS84-11-02-03": 97}),
    "gaudi-3": (GAUDI, {"gaudi-01P0-HL2080A0-15-TNBS84-11-02-03": 97}),
    "furiosa-rngd": (FURIOSA, {"furiosa-0000:0a:00.0": 44, "furiosa-0000:0b:00.0": 36.5}),
    "rebellions": (RBLN, {"rbln-u0": 81.5, "rbln-u1": 6.2}),
    "ipmi-dcmi": (DCMI, {"dcmi": 612}),
}
"""What the tool of a profile prints, in the form of its documentation, and the watts by meter."""


@pytest.fixture
def tool(tmp_path: Path) -> Make:
    """Makes a tool that prints this; gives its path."""

    def make(text: str) -> str:
        path, told = tmp_path / "vendor-smi", tmp_path / "told"
        told.write_text(text, encoding="utf-8")
        path.write_text(f"#!/bin/sh\ncat {told}\n", encoding="ascii")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def bmc() -> Iterator[WebService]:
    made = WebService()
    made.content = b'{"power": 2000, "energy": 5000}'
    yield made
    made.end()


def server(bmc: WebService, **keys: Any) -> dict[str, Any]:
    meter = {"id": "bmc", "kind": "server", "json": {"power_w": "/power"}, "max_power_w": 4000, "current": "ac", **keys}
    return {"use": "http_json", "url": f"http://127.0.0.1:{bmc.port}/", "timeout_s": 20, "meters": [meter]}


def residual(bmc: WebService, **keys: Any) -> Source:
    return declared.open({"profile": "groq-lpu", "host_w": 400, "server": server(bmc), **keys})


def watts(source: Source) -> dict[str, float]:
    return {one.meter: (one.power_mw or 0) / 1e3 for one in source.read() if isinstance(one, MeterReading)}


def meters(source: Source) -> dict[str, Meter]:
    return {one.id: one for one in source.declares if isinstance(one, Meter)}


@pytest.mark.parametrize("name", [name for name in shipped() if load_profile(name, "").route])
def test_each_route_that_comes_with_us_reads_what_its_tool_prints(name: str, tool: Make) -> None:
    text, expected = OUTPUTS[name]
    profile = load_profile(name, "test")
    table = {"profile": name, "max_power_w": profile.max_power_w or 400.0}
    command = [tool(text), *profile.route["command"][1:]]
    source = declared.open({**table, "route": {"command": command, "timeout_s": 20}})
    assert watts(source) == expected
    for meter in meters(source).values():
        assert meter.basis == f"rated power: {profile.basis} ({profile.confidence} confidence)"
        assert meter.max_power_mw == round(table["max_power_w"] * 1000)
        assert meter.hw_model or meter.kind == "server"
    assert source.period_ns == profile.route["period_s"] * 10**9


def test_what_a_tool_tells_of_its_cards_is_declared(tool: Make) -> None:
    source = declared.open({"profile": "gaudi-2", "route": {"command": [tool(GAUDI)]}})
    first = meters(source)["gaudi-01P0-HL2080A0-15-TNBS84-11-02-03"]
    assert (first.hw_model, first.driver, first.power_limit_mw) == ("HL-225", "1.22.1-97ec1a4", 600_000)
    assert first.device == "01P0-HL2080A0-15-TNBS84-11-02-03"
    assert [(one.subject, one.code) for one in source.read() if isinstance(one, Failure)] == [
        ("gaudi-01P0-HL2080A0-15-TNBS84-11-02-04", "no_value")
    ]


@pytest.mark.parametrize("name", [name for name in shipped() if not load_profile(name, "").route])
def test_each_chip_without_an_interface_is_a_residual(name: str, bmc: WebService) -> None:
    profile = load_profile(name, "test")
    table = {"profile": name, "cards": 8, "host_w": 400, "server": server(bmc)}
    source = declared.open(table)
    assert watts(source) == {"bmc": 2_000, name: 1_600}
    cards = meters(source)[name]
    assert cards.hw_model == profile.hw_model
    assert cards.max_power_mw == round(8 * (profile.max_power_w or 0) * 1000)
    with pytest.raises(ConfigError, match=rf"server: {re.escape(profile.name)} has no interface of its own"):
        declared.open({"profile": name})


def test_a_residual_is_declared_for_what_it_is(bmc: WebService) -> None:
    source = residual(bmc, host_basis="measured without cards on 2026-03-01")
    found = meters(source)
    assert list(found) == ["bmc", "groq-lpu"]
    assert found["bmc"].grade == "integrated"
    cards = found["groq-lpu"]
    assert (cards.kind, cards.grade, cards.sensor_class, cards.inside) == ("accelerator", "residual", "modelled", "bmc")
    assert (cards.max_power_mw, cards.current, cards.hw_model) == (3_000_000, "ac", "GroqCard")
    assert cards.basis.startswith("bmc less 400 W of its host (measured without cards on 2026-03-01); rated power: ")
    assert cards.basis.endswith("(low confidence)")


def test_what_is_left_of_a_model_is_modelled(bmc: WebService) -> None:
    source = residual(bmc, server=server(bmc, grade="modelled", basis="a curve"))
    assert meters(source)["groq-lpu"].grade == "modelled"


def test_absence_of_the_server_is_absence_of_the_cards(bmc: WebService) -> None:
    source = residual(bmc)
    bmc.content = b'{"power": 0}'
    assert [(one.subject, one.code) for one in source.read() if isinstance(one, Failure)] == [
        ("bmc", "no_value"),
        ("groq-lpu", "no_value"),
    ]
    bmc.status = 503
    assert [(one.subject, one.code) for one in source.read() if isinstance(one, Failure)] == [
        ("bmc", "http_status"),
        ("groq-lpu", "http_status"),
    ]


def test_a_host_share_above_the_server_is_a_failure(bmc: WebService) -> None:
    source = residual(bmc, host_w=2_100)
    told, failed = source.read()
    assert told == MeterReading(meter="bmc", power_mw=2_000_000)
    assert isinstance(failed, Failure)
    assert (failed.subject, failed.code) == ("groq-lpu", "negative_residual")


def test_one_poll_serves_server_and_cards(bmc: WebService) -> None:
    source = residual(bmc)
    source.read()
    assert len(bmc.asked) == 1


def test_a_counter_of_the_server_gives_one_of_the_cards(bmc: WebService) -> None:
    clock = [7 * 10**9]
    table = {"profile": "groq-lpu", "host_w": 400}
    nested = server(bmc, json={"energy_j": "/energy", "power_w": "/power"})
    source = declared.opened({**table, "server": nested}, lambda: clock[0])
    assert meters(source)["groq-lpu"].grade == "residual"
    assert (meters(source)["groq-lpu"].resolution_uj, meters(source)["bmc"].grade) == (1_000_000, "counter")
    told = []
    for seconds in range(3):
        bmc.content = json.dumps({"power": 2_000, "energy": 5_000 + 10_000 * seconds}).encode()
        told.append(source.read()[1])
        clock[0] += 5 * 10**9
    assert [one.counter_uj for one in told if isinstance(one, MeterReading)] == [0, 8_000_000_000, 16_000_000_000]
    assert len({one.epoch for one in told if isinstance(one, MeterReading)}) == 1


class Rapl(Tree):
    """A package whose energy a test sets, in microjoules."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.package = self.zone("intel-rapl:0", "package-0", 5)
        self.zone("intel-rapl:0:0", "core", 3)
        self.dram = self.zone("intel-rapl:0:1", "dram", 7)
        self.table = {"use": "rapl", "root": str(self.root), "boot_id": str(self.boot_id)}


def test_processors_and_memory_are_taken_off_as_measured(bmc: WebService, tmp_path: Path) -> None:
    clock, tree = [10**9], Rapl(tmp_path)
    nested = server(bmc, json={"energy_j": "/energy", "power_w": "/power"})
    nested["period_s"] = 5
    table = {"profile": "groq-lpu", "host_w": 100, "host": [tree.table], "server": nested}
    source = declared.opened(table, lambda: clock[0])
    assert list(meters(source)) == ["bmc", "package-0", "package-0/core", "package-0/dram", "groq-lpu"]
    cards = meters(source)["groq-lpu"]
    assert cards.basis.startswith("bmc less 100 W of its host (declared), less package-0, less package-0/dram; ")
    assert source.period_ns == 10**9
    told: list[Any] = []
    for second in range(21):
        clock[0] += 10**9
        bmc.content = json.dumps({"power": 2_000, "energy": 5_000 + 2_000 * second}).encode()
        tree.package.write_text(f"{5 + second * 250_000_000}\n")
        tree.dram.write_text(f"{7 + second * 50_000_000}\n")
        told += [one for one in source.read() if "groq-lpu" in (getattr(one, "subject", ""), getattr(one, "meter", ""))]
    assert len(bmc.asked) == 5, "the BMC is asked at its own pace"
    first, *rest = told
    assert (first.code, first.subject) == ("host_unknown", "groq-lpu")
    assert [one.counter_uj for one in rest] == [0, 8_000_000_000, 16_000_000_000, 24_000_000_000]
    assert {(one.power_mw, one.epoch) for one in rest} == {(1_600_000, rest[0].epoch)}


def test_cards_have_no_value_while_the_host_has_none(bmc: WebService, tmp_path: Path) -> None:
    clock, tree = [10**9], Rapl(tmp_path)
    table = {"profile": "groq-lpu", "host_w": 100, "host": [tree.table], "server": server(bmc)}
    source = declared.opened(table, lambda: clock[0])
    outcomes = []
    for second in range(8):
        clock[0] += 5 * 10**9
        tree.package.write_text("rubbish" if second in (3, 4) else f"{5 + second * 5 * 250_000_000}\n")
        tree.dram.write_text(f"{7 + second * 5 * 50_000_000}\n")
        outcomes.append(watts(source).get("groq-lpu"))
    assert outcomes == [None, 1_600, 1_600, None, None, 1_600, 1_600, 1_600]
    with pytest.raises(ConfigError, match=r"host\[0\]"):
        declared.open({**table, "host": [server(bmc)]})


def test_of_rails_inside_one_another_and_other_accelerators_each_joule_is_taken_off_once(
    bmc: WebService, tmp_path: Path
) -> None:
    acpi, clock = AcpiPower(tmp_path / "sys"), [10**9]
    for number, (rail, power_uw) in enumerate({"Grace": 300, "CPU": 200, "SysIO": 10}.items()):
        acpi.add(number, f"{rail} Power Socket 0", power_uw * 10**6)
    gpu = {"id": "gpu", "json": {"power_w": "/gpu"}, "max_power_w": 1_000}
    board = {"use": "http_json", "url": f"http://127.0.0.1:{bmc.port}/", "timeout_s": 20, "meters": [gpu]}
    hosts = [{"use": "acpi_power_meter", **acpi.table}, {**board, "period_s": 1}]
    bmc.content = b'{"power": 2000, "gpu": 500}'
    table = {"profile": "groq-lpu", "host_w": 100, "host": hosts, "server": server(bmc)}
    source = declared.opened(table, lambda: clock[0])
    for _ in range(3):
        told = watts(source)
        clock[0] += 5 * 10**9
    assert told["groq-lpu"] == 2_000 - 100 - 300 - 500
    assert (told["gpu"], told["acpi-cpu-0"]) == (500, 200)


def test_of_several_server_meters_one_has_to_be_named(bmc: WebService) -> None:
    nested = server(bmc)
    nested["meters"] = [*nested["meters"], {**nested["meters"][0], "id": "pdu"}]
    with pytest.raises(ConfigError, match=r"server_meter: .*: bmc, pdu"):
        residual(bmc, server=nested)
    assert watts(residual(bmc, server=nested, server_meter="pdu")) == {"bmc": 2_000, "pdu": 2_000, "groq-lpu": 1_600}
    with pytest.raises(ConfigError, match=r"server_meter: .*: none"):
        residual(bmc, server=server(bmc, kind="enclosure"))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"profile": "groq"}, "profile"),
        ({"host_w": None}, "host_w"),
        ({"host_w": -1}, "host_w"),
        ({"profile": "maia-100"}, "cards"),
        ({"server": {"use": "redfisch"}}, "server.use"),
        ({"server": {"url": "http://127.0.0.1/"}}, "server.use"),
        ({"watts": 3}, "watts"),
        ({"route": {"period_s": 3}}, "route: is used without"),
        ({"profile": "gaudi-3", "server": {}}, "host_w: is used with"),
        ({"profile": "gaudi-3", "server": {}, "host_w": None, "cards": 8}, "cards: is used with"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(bmc: WebService, keys: dict[str, Any], said: str) -> None:
    table = {"profile": "groq-lpu", "host_w": 400, "server": server(bmc), **keys}
    with pytest.raises(ConfigError, match=said):
        declared.open({key: value for key, value in table.items() if value is not None})


def test_a_rated_power_that_no_one_knows_has_to_be_said(tool: Make) -> None:
    table = {"profile": "rebellions", "route": {"command": [tool(RBLN)]}}
    with pytest.raises(ConfigError, match=r"^source declared, route: source exec: .*max_power_w"):
        declared.open(table)
    assert watts(declared.open({**table, "max_power_w": 350})) == {"rbln-u0": 81.5, "rbln-u1": 6.2}


def test_a_tool_that_is_not_installed_is_absence(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable) as raised:
        declared.open({"profile": "gaudi-3", "route": {"command": [str(tmp_path / "hl-smi")]}})
    assert raised.value.code == "absent"


def test_a_tool_on_this_machine_is_found_without_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceUnavailable) as raised:
        declared.open({})
    assert raised.value.code == "absent"

    def install(name: str, text: str) -> None:
        (tmp_path / f"{name}.told").write_text(text, encoding="utf-8")
        (tmp_path / name).write_text(f"#!/bin/sh\nexec /bin/cat {tmp_path}/{name}.told\n")
        (tmp_path / name).chmod(0o755)

    install("furiosa-smi", FURIOSA)
    assert watts(declared.open({})) == OUTPUTS["furiosa-rngd"][1]
    (tmp_path / "furiosa-smi").unlink()
    install("hl-smi", GAUDI)
    with pytest.raises(ConfigError, match=r"profile: .* one of gaudi-2, gaudi-3"):
        declared.open({})
    (tmp_path / "hl-smi").unlink()
    install("rbln-smi", RBLN)
    with pytest.raises(ConfigError, match="max_power_w"):
        declared.open({})
    (tmp_path / "rbln-smi").unlink()
    install("ipmitool", DCMI)
    with pytest.raises(SourceUnavailable, match="no tool of a profile"):
        declared.open({})


def test_a_user_adds_a_chip_without_code(tmp_path: Path, tool: Make, bmc: WebService) -> None:
    page = (PAGES / "declared.md").read_text(encoding="utf-8")
    profile, agent = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "example-npu.toml"
    path.write_text(profile, encoding="utf-8")
    made = tool('{"chips": [{"serial": "A7", "input": {"watts": 64.5}, "die": {"celsius": 51}}]}')
    by_tool = declared.open({"profile": str(path), "route": {"command": [made]}})
    assert by_tool.read() == [MeterReading(meter="npu-A7", power_mw=64_500, gauges={"temperature_c": 51.0})]
    assert meters(by_tool)["npu-A7"].hw_model == "Example NPU"
    # The same chip by its server's input, where the tool is not allowed.
    by_rest = declared.open({"profile": str(path), "cards": 16, "host_w": 400, "server": server(bmc)})
    assert watts(by_rest) == {"bmc": 2_000, "example-npu": 1_600}
    own, groq = tomllib.loads(agent)["sources"]
    assert own == {"use": "declared", "profile": "/etc/joulefleet/example-npu.toml"}
    tree = Rapl(tmp_path)
    assert groq["host"] == [{"use": "rapl"}]
    groq["server"]["url"], groq["host"] = f"http://127.0.0.1:{bmc.port}/", [tree.table]
    del groq["use"]
    assert list(meters(declared.open(groq))) == ["bmc", "package-0", "package-0/core", "package-0/dram", "groq-lpu"]


def test_no_engine_comes_of_it(bmc: WebService) -> None:
    assert not [one for one in residual(bmc).declares if isinstance(one, Engine)]
