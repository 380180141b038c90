"""The `exporter` source over a real server on loopback: what it declares, what breaks, what is counted once."""

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.exporter import A_UUID, B_UUID, ENERGY, POWER, Dcgm, row
from fixtures.recorded import DATA, needs_data
from fixtures.web_service import WebService
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading, Reading
from joulefleet.source import Source, SourceUnavailable
from joulefleet.topology import topology
from joulefleet.units import NS_PER_S
from joulefleet_plugins.meters import exporter, rapl

STEP_NS = 60 * NS_PER_S
A, B = f"via-dcgm-{A_UUID}", f"via-dcgm-{B_UUID}"


class Exporter:
    """An exporter whose page and clock a test sets."""

    def __init__(self, service: WebService) -> None:
        self.service = service
        self.now_s = 0.0

    def show(self, text: str) -> None:
        self.service.content = text.encode()

    def table(self, **keys: Any) -> dict[str, Any]:
        return {"url": f"http://127.0.0.1:{self.service.port}/metrics", "timeout_s": 20, **keys}

    def open(self, **keys: Any) -> exporter.ExporterSource:
        return exporter.opened(self.table(**keys), lambda: self.now_s)


@pytest.fixture
def shown() -> Iterator[Exporter]:
    service = WebService()
    made = Exporter(service)
    made.show(dcgm())
    yield made
    service.end()


def dcgm(energy: object = 5_000, power: object = 100, **keys: Any) -> str:
    return Dcgm(values={ENERGY: energy, POWER: power}, **keys).text()


def meters(source: Source) -> dict[str, Meter]:
    return {one.id: one for one in source.declares if isinstance(one, Meter)}


def codes(readings: list[Reading]) -> dict[str, str]:
    return {one.subject: one.code for one in readings if isinstance(one, Failure)}


def values(readings: list[Reading]) -> dict[str, tuple[int | None, int | None]]:
    return {one.meter: (one.counter_uj, one.power_mw) for one in readings if isinstance(one, MeterReading)}


def epochs(readings: list[Reading]) -> set[str]:
    return {one.epoch for one in readings if isinstance(one, MeterReading)}


def covered(*several: Source) -> dict[str, set[str]]:
    """By boundary the meters that are summed, of these sources together."""
    declared = [one for source in several for one in source.declares if isinstance(one, Meter)]
    assert len({one.id for one in declared}) == len(declared)
    return {one.boundary: {meter.id for meter in one.meters} for one in topology(declared, STEP_NS).covers}


def test_the_boards_of_a_page_are_read(shown: Exporter) -> None:
    source = shown.open()
    assert set(meters(source)) == {A, B}
    assert {one.period_ns for one in meters(source).values()} == {5 * NS_PER_S} == {source.period_ns}
    for _ in range(3):
        assert values(source.read()) == {A: (5_000_000, 100_000), B: (5_000_000, 100_000)}
    assert shown.service.connections == 1, "the connection is kept"
    assert {one["path"] for one in shown.service.asked} == {"/metrics"}


def test_an_address_alone_means_its_metrics(shown: Exporter) -> None:
    shown.open(url=f"http://127.0.0.1:{shown.service.port}").read()
    shown.open(url=f"http://127.0.0.1:{shown.service.port}/metrics?collect[]=rapl").read()
    assert {one["path"] for one in shown.service.asked} == {"/metrics", "/metrics?collect[]=rapl"}


def test_the_pace_of_the_exporter_is_known_or_told(shown: Exporter) -> None:
    assert {one.refresh_ns for one in meters(shown.open()).values()} == {30 * NS_PER_S}
    assert {one.refresh_ns for one in meters(shown.open(refresh_s=1)).values()} == {NS_PER_S}


def test_a_board_that_comes_later_is_declared_then(shown: Exporter) -> None:
    shown.show(dcgm(boards={A_UUID: ()}))
    source = shown.open()
    assert set(meters(source)) == {A}
    shown.show(dcgm())
    assert set(values(source.read())) == {A, B} == set(meters(source))


def test_a_board_that_goes_stays_declared_and_fails(shown: Exporter) -> None:
    source = shown.open()
    shown.show(dcgm(boards={A_UUID: ()}))
    readings = source.read()
    assert (set(values(readings)), codes(readings)) == ({A}, {B: "row_missing"})
    assert set(meters(source)) == {A, B}


def test_a_counter_that_comes_later_is_preferred_and_one_that_is_lost_is_missed(shown: Exporter) -> None:
    shown.show(dcgm(energy="9223372036854775794"))
    source = shown.open()
    assert meters(source)[A].grade == "integrated"
    assert values(source.read())[A] == (None, 100_000)
    shown.show(dcgm())
    source.read()
    assert meters(source)[A].grade == "counter"
    shown.show(dcgm(energy=None))
    assert codes(source.read()) == {A: "no_value", B: "no_value"}
    assert meters(source)[A].grade == "counter", "the boundary does not change because a value is missing"


def test_declarations_stay_as_they_are_until_the_driver_is_another(shown: Exporter) -> None:
    source = shown.open()
    before, lives = source.declares, epochs(source.read())
    shown.show(dcgm(power=120, model="NVIDIA H100 renamed"))
    assert epochs(source.read()) == lives and source.declares == before
    shown.show(dcgm(driver="580.1"))
    assert epochs(source.read()).isdisjoint(lives)
    assert {one.driver for one in meters(source).values()} == {"580.1"}


def test_another_boot_is_another_life_of_the_counters(shown: Exporter) -> None:
    def at(boot_s: float) -> str:
        return row("node_rapl_package_joules_total", {"index": "0"}, 5) + f"node_boot_time_seconds {boot_s}\n"

    shown.show(at(1.79e9))
    source = shown.open()
    lives = epochs(source.read())
    shown.show(at(1.79e9 + 1))
    assert epochs(source.read()) == lives, "a clock that is being set moves the time of the boot"
    shown.show(at(1.79e9 + 600))
    assert epochs(source.read()).isdisjoint(lives)


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_a_refusal_is_a_failure(shown: Exporter, status: int) -> None:
    source = shown.open()
    shown.service.status = status
    assert codes(source.read()) == {"": "http_status"}


def test_an_exporter_that_breaks_is_read_again_when_it_is_back(shown: Exporter) -> None:
    source = shown.open(timeout_s=1)
    shown.service.closed = True
    assert codes(source.read()) == {"": "scrape_failed"}
    shown.service.closed, shown.service.hangs = False, True
    assert codes(source.read()) == {"": "timeout"}
    shown.service.mend()
    assert set(values(source.read())) == {A, B}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (dcgm()[:-30].encode(), "truncated"),
        (b"<html>\n", "malformed"),
        (b"\xff\xfe\n", "malformed"),
        (b"", "unrecognised"),
        (b"go_threads 7\n", "unrecognised"),
        (b"# HELP a b\n" * 2_000_000, "too_large"),
    ],
    ids=["half", "rubbish", "binary", "empty", "other", "22 MB"],
)
def test_what_is_no_whole_page_of_meters_is_a_failure(shown: Exporter, content: bytes, code: str) -> None:
    source = shown.open()
    shown.service.content = content
    assert codes(source.read()) == {"": code}
    with pytest.raises(SourceUnavailable) as told:
        shown.open()
    assert told.value.code == code and told.value.mend


def test_a_page_on_which_nothing_moves_is_stale(shown: Exporter) -> None:
    source = shown.open(refresh_s=10)
    for shown.now_s in range(0, 301, 5):
        assert set(values(source.read())) == {A, B}
    shown.now_s = 305
    assert codes(source.read()) == {"": "stale"}
    shown.show(dcgm(energy=5_001))
    assert set(values(source.read())) == {A, B}


def test_a_slow_exporter_is_given_its_time(shown: Exporter) -> None:
    source = shown.open(refresh_s=60)
    for shown.now_s in (0, 599):
        assert set(values(source.read())) == {A, B}
    shown.now_s = 601
    assert codes(source.read()) == {"": "stale"}


def test_of_several_servers_one_has_to_be_named(shown: Exporter) -> None:
    other = Dcgm(boards={B_UUID: ()}, host={"Hostname": "gpu-2"}, values={POWER: 70}).text()
    shown.show(dcgm(boards={A_UUID: ()}) + other)
    with pytest.raises(SourceUnavailable, match=r"gpu-1, gpu-2: name one with `hostname`"):
        shown.open()
    assert set(meters(shown.open(hostname="gpu-2"))) == {B}
    with pytest.raises(SourceUnavailable, match="no meter of gpu-3"):
        shown.open(hostname="gpu-3")


def test_only_some_of_a_page_that_gathers_several(shown: Exporter) -> None:
    shown.show(dcgm() + row("nv_energy_consumption", {"gpu_uuid": A_UUID}, 5))
    assert set(meters(shown.open())) == {A, B, f"via-triton-{A_UUID}"}
    assert set(meters(shown.open(only=["triton"]))) == {f"via-triton-{A_UUID}"}


def test_two_exporters_of_one_board_are_one_board(shown: Exporter) -> None:
    shown.show(dcgm(boards={A_UUID: ()}) + row("nv_energy_consumption", {"gpu_uuid": A_UUID}, 5))
    assert covered(shown.open())["accelerator"] == {A}


def test_boards_that_nvml_shows_too_are_counted_once(
    shown: Exporter, nvml: Any, fake_nvml: Any, open_reader: Callable[[], Any]
) -> None:
    nvml.boards = 2
    nvml.write()
    reader = open_reader()
    reader.open()
    shown.show(dcgm(boards={fake_nvml.uuid(0): (), fake_nvml.uuid(1): ("3", "4"), A_UUID: ()}))
    assert covered(reader, shown.open())["accelerator"] == {fake_nvml.uuid(0), fake_nvml.uuid(1), A}


def test_zones_that_rapl_shows_too_are_counted_once(shown: Exporter, tmp_path: Path) -> None:
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("boot\n")
    tree, lines = tmp_path / "powercap", ""
    for number, (folder, name) in enumerate(
        {
            "intel-rapl:0": "package-0",
            "intel-rapl:0:0": "dram",
            "intel-rapl:0:1": "core",
            "intel-rapl:1": "psys",
        }.items()
    ):
        (tree / folder).mkdir(parents=True)
        for file, text in (("name", name), ("energy_uj", "5000000"), ("max_energy_range_uj", "65532610987")):
            (tree / folder / file).write_text(f"{text}\n")
        labels = {"index": "0", "path": f"/sys/class/powercap/{folder}"}
        lines += row(f"node_rapl_{name.removesuffix('-0')}_joules_total", labels, 5 + number)
    shown.show(lines)
    direct = rapl.open({"root": str(tree), "boot_id": str(boot_id)})
    page = shown.open(powercap=str(tree))
    assert {one.modulus_uj for one in meters(page).values()} == {65_532_610_987}
    assert {one.device for one in meters(page).values()} == {one.device for one in meters(direct).values()}
    assert covered(direct, page)["compute"] == {"package-0", "package-0/dram"}
    assert covered(page)["compute"] == {"via-node-package-0", "via-node-package-0/dram"}


def test_the_sum_of_all_packages_is_never_added_to_one(shown: Exporter, tmp_path: Path) -> None:
    shown.show(
        row("node_rapl_package_joules_total", {"index": "0"}, 5)
        + row("kepler_node_cpu_joules_total", {"zone": "package", "path": "aggregated-package"}, 9)
    )
    assert covered(shown.open())["compute"] == {"via-node-package-0"}


def test_an_amd_board_of_this_server_is_known_by_its_serial_number(shown: Exporter, tmp_path: Path) -> None:
    for address, serial in {"0000:c1:00.0": "SN-0", "0000:c1:00.1": "SN-0", "0000:c2:00.0": "SN-1"}.items():
        (tmp_path / address).mkdir()
        (tmp_path / address / "serial_number").write_text(f"{serial}\n")
    (tmp_path / "0000:c3:00.0").mkdir()
    (tmp_path / "0000:c3:00.0" / "unique_id").write_text("8a2f\n")
    serials = ("SN-0", "SN-1", "8a2f", "SN-9")
    shown.show("".join(row("gpu_package_power", {"gpu_id": "0", "serial_number": one}, 136) for one in serials))
    source = shown.open(amdgpu=str(tmp_path), devices={"SN-1": "0001:00:00.0"})
    devices = {name.removeprefix("via-amd-"): one.device for name, one in meters(source).items()}
    assert devices == {"SN-0": "0000:c1:00.0", "SN-1": "0001:00:00.0", "8a2f": "0000:c3:00.0", "SN-9": ""}


def test_a_board_can_be_given_the_identity_that_another_source_has_for_it(shown: Exporter) -> None:
    shown.show(row("gpu_energy_consumed", {"gpu_id": "0", "serial_number": "SN-0"}, 5_000_000))
    source = shown.open(devices={"SN-0": "0000:c1:00.0"})
    assert meters(source)["via-amd-SN-0"].device == "0000:c1:00.0"


@pytest.mark.parametrize(("here", "range_uj"), [(True, 65_532_610_987), (False, 0)])
def test_the_counters_of_another_server_do_not_wrap_as_those_of_this_one(
    shown: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool, range_uj: int
) -> None:
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "max_energy_range_uj").write_text("65532610987\n")
    labels = {"index": "0", "path": "/sys/class/powercap/intel-rapl:0"}
    shown.show(row("node_rapl_package_joules_total", labels, 5))
    monkeypatch.setattr(exporter, "is_loopback", lambda host: here)
    assert [one.modulus_uj for one in meters(shown.open(powercap=str(tmp_path))).values()] == [range_uj]


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"url": "ftp://x"}, "url"),
        ({"url": "http://user:hunter2@x/"}, "url"),
        ({"only": ["dcmg"]}, "only"),
        ({"period_s": 31}, "period_s"),
        ({"interval": 5}, "interval"),
    ],
)
def test_a_mistake_in_the_config_is_told(shown: Exporter, keys: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=where) as told:
        exporter.open({**shown.table(), **keys})
    assert "hunter2" not in str(told.value)


def test_a_url_has_to_be_named() -> None:
    with pytest.raises(ConfigError, match="url"):
        exporter.open({})


def test_no_exporter_is_absent_with_a_mend() -> None:
    with pytest.raises(SourceUnavailable) as told:
        exporter.open({"url": "http://127.0.0.1:9"})
    assert (told.value.code, bool(told.value.mend)) == ("scrape_failed", True)


def test_the_example_of_the_page_is_a_config(shown: Exporter) -> None:
    page = (Path(__file__).parents[3] / "docs/meters/exporter.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    for table in tomllib.loads(text)["sources"]:
        assert table.pop("use") == "exporter"
        exporter.typed(table, exporter.ExporterConfig, "exporter")


@needs_data
def test_a_recorded_page_of_four_gb200(shown: Exporter) -> None:
    shown.service.content = (DATA / "exporters" / "dcgm-gb200.txt").read_bytes()
    assert sorted(power or 0 for _, power in values(shown.open().read()).values()) == [165866, 170582, 171187, 180378]
