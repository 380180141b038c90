"""The AMD source through the real package `amdsmi`, on a fake library that the test compiles."""

import importlib.util
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from fixtures.amdsmi import fake_amdsmi
from fixtures.amdsmi.fake_amdsmi import ABSENT, Device, FakeAmdsmi, silent
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import Source, SourceUnavailable
from joulefleet.window import MeterWindow
from joulefleet_agent.meter_cut import MeterCut
from joulefleet_plugins.meters import amdsmi as plugin

NOT_SUPPORTED, API_FAILED, NO_PERM, BUSY, NOT_FOUND, DRIVER_NOT_LOADED = 2, 7, 10, 30, 31, 34
SLACK_UJ = 50_000
"""The fake's counter rises by 15 uJ at each read, so that it is seen to move."""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := fake_amdsmi.missing():
        pytest.skip(reason)
    return fake_amdsmi.build(tmp_path_factory.mktemp("rocm"))


@pytest.fixture
def fake(library: Path, tmp_path: Path) -> Iterator[FakeAmdsmi]:
    made = FakeAmdsmi(tmp_path / "amdsmi.control")
    made.write()
    with fake_amdsmi.loaded(library, made.control):
        yield made


def opened(fake: FakeAmdsmi, *devices: Device, **table: Any) -> Source:
    if devices:
        fake.devices = list(devices)
    fake.write()
    return plugin.open(table)


def meters(source: Source) -> list[Meter]:
    return [one for one in source.declares if isinstance(one, Meter)]


def only(source: Source) -> Any:
    (reading,) = source.read()
    return reading


def test_a_board_is_declared_with_all_that_accounting_needs(fake: FakeAmdsmi) -> None:
    assert meters(opened(fake)) == [
        Meter(
            id="amd-0000:0c:00.0",
            kind="accelerator",
            grade="counter",
            sensor_class="onboard",
            device="0000:0c:00.0",
            hw_model="AMD Instinct MI300X",
            resolution_uj=16,
            refresh_ns=10_000_000,
            max_power_mw=750_000,
            restarts_at_zero=True,
            driver="6.12.12",
            power_limit_mw=750_000,
        )
    ]


def test_counter_gauge_and_the_values_beside_them_are_read_together(fake: FakeAmdsmi) -> None:
    source = opened(fake)
    first = only(source)
    fake.run(10)
    second = only(source)
    assert second.counter_uj - first.counter_uj == pytest.approx(3_000_000_000, abs=SLACK_UJ)
    assert (second.power_mw, second.epoch) == (300_000, first.epoch)
    assert second.gauges == {"utilisation_pct": 40.0, "temperature_c": 55.0}


def test_the_rounded_step_of_the_library_is_the_kernel_s_and_others_are_taken_as_told() -> None:
    assert plugin.step_uj(15.300000190734863) == Fraction(10**6, 2**16)
    assert plugin.step_uj(15.259) == Fraction(10**6, 2**16)
    assert plugin.step_uj(1.0) == 1


def test_a_counter_of_53_bits_and_more_is_exact(fake: FakeAmdsmi) -> None:
    source = opened(fake)
    fake.devices[0].counter = 2**60 + 2**16
    fake.write()
    assert only(source).counter_uj == 2**44 * 10**6 + 10**6


@pytest.mark.parametrize(("current_w", "average_w", "power_mw"), [(717, ABSENT, 717_000), (ABSENT, 94, 94_000)])
def test_the_gauge_that_the_chip_has_is_read(fake: FakeAmdsmi, current_w: int, average_w: int, power_mw: int) -> None:
    source = opened(fake, Device("0000:0c:00.0", current_w=current_w, average_w=average_w))
    assert only(source).power_mw == power_mw


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((absent, None) for absent in ("N/A", "", None, True, 0xFFFF, 0xFFFFFFFF, 2**64 - 1, 0, -3, float("nan"))),
        *((there, 94) for there in (94, 94.0, "94", {"value": 94, "unit": "W"}, {"value": "94"})),
        ({"value": "N/A"}, None),
        (float("inf"), None),
    ],
)
def test_what_is_no_number_is_absent(value: Any, number: float | None) -> None:
    assert plugin.number(value) == number


@pytest.mark.parametrize(("cap", "cap_mw"), [(750_000_000, 750_000), (750, 750_000), (0, 0)])
def test_caps_are_in_microwatts_or_watts_by_the_release(fake: FakeAmdsmi, cap: int, cap_mw: int) -> None:
    (meter,) = meters(opened(fake, Device("0000:0c:00.0", cap=cap)))
    assert (meter.max_power_mw, meter.power_limit_mw) == (cap_mw, cap_mw)


def test_partitions_of_one_board_are_one_meter(fake: FakeAmdsmi) -> None:
    boards = [f"0000:{bus}:00" for bus in ("0c", "22")]
    devices = [
        Device(f"{board}.{part}") if part == 0 else silent(f"{board}.{part}") for board in boards for part in range(8)
    ]
    source = opened(fake, *devices)
    assert [one.device for one in meters(source)] == [f"{board}.0" for board in boards]
    fake.run(1)
    assert [one.power_mw for one in source.read() if isinstance(one, MeterReading)] == [300_000, 300_000]


def test_partitions_that_repeat_the_board_are_counted_once(fake: FakeAmdsmi) -> None:
    source = opened(fake, *(Device(f"0000:0c:00.{part}") for part in range(8)))
    assert [one.device for one in meters(source)] == ["0000:0c:00.0"]


def test_where_the_first_partition_is_not_here_the_board_keeps_its_identity(fake: FakeAmdsmi) -> None:
    source = opened(fake, Device("0000:0c:00.3"))
    assert [one.device for one in meters(source)] == ["0000:0c:00.0"]


def test_two_dies_of_one_board_are_counted_once(fake: FakeAmdsmi) -> None:
    name = "AMD Instinct MI250X"
    telling = [Device(f"0000:{bus}:00.0", name, current_w=ABSENT, average_w=400) for bus in ("c1", "d1")]
    source = opened(fake, telling[0], silent("0000:c6:00.0", name), silent("0000:ca:00.0", name), telling[1])
    assert [one.device for one in meters(source)] == ["0000:c1:00.0", "0000:d1:00.0"]
    assert all(isinstance(one, MeterReading) for one in source.read())


def test_boards_that_must_be_known_are_known_by_their_pci_id(fake: FakeAmdsmi) -> None:
    name = "AMD INSTINCT MI200 (MCM) OAM LC MBA HPE C2"
    die = Device("0000:c1:00.0", name, current_w=ABSENT, average_w=400, pci_id=0x7408)
    source = opened(fake, die, silent("0000:c6:00.0", name, 0x7408), Device("0000:01:00.0", "N/A", pci_id=0x74A0))
    assert [(one.device, one.kind, one.hw_model) for one in meters(source)] == [
        ("0000:01:00.0", "module", "AMD Instinct MI300A"),
        ("0000:c1:00.0", "accelerator", "AMD Instinct MI250X"),
    ]


def test_a_board_of_two_dies_that_tells_nothing_now_stays_declared_once(fake: FakeAmdsmi) -> None:
    name = "AMD Instinct MI250X"
    source = opened(fake, *(silent(f"0000:{bus}:00.0", name) for bus in ("c1", "c6")))
    assert [one.device for one in meters(source)] == ["0000:c1:00.0"]
    assert only(source).code == "no_value"


def test_a_socket_with_cpu_and_memory_is_a_module(fake: FakeAmdsmi) -> None:
    (meter,) = meters(opened(fake, Device("0000:01:00.0", "AMD Instinct MI300A")))
    assert (meter.kind, meter.contains) == ("module", ("accelerator", "cpu_package", "dram"))


def test_graphics_inside_a_processor_are_no_board(fake: FakeAmdsmi) -> None:
    graphics = Device("0000:c4:00.0", "AMD Radeon 780M Graphics", counter=0)
    source = opened(fake, Device("0000:03:00.0", "AMD Radeon PRO W7900"), graphics)
    assert [one.device for one in meters(source)] == ["0000:03:00.0"]
    with pytest.raises(SourceUnavailable) as raised:
        opened(fake, graphics)
    assert raised.value.code == "absent"


def test_a_counter_that_stands_still_from_the_beginning_gives_way_to_the_gauge(fake: FakeAmdsmi) -> None:
    source = opened(fake, Device("0000:0c:00.0", "AMD Instinct MI100", counter=1_073_856), Device("0000:22:00.0"))
    frozen, sound = meters(source)
    assert (frozen.grade, frozen.resolution_uj, frozen.restarts_at_zero) == ("integrated", 0, False)
    assert "stood still" in frozen.basis
    assert (sound.grade, sound.basis) == ("counter", "")
    reading = source.read()[0]
    assert isinstance(reading, MeterReading)
    assert (reading.counter_uj, reading.power_mw) == (None, 300_000)


def test_a_board_without_a_counter_is_integrated_from_its_gauge(fake: FakeAmdsmi) -> None:
    fake.failures = {("energy_count", -1): NOT_SUPPORTED}
    source = opened(fake)
    assert [(one.grade, one.basis) for one in meters(source)] == [("integrated", "")]
    assert only(source).power_mw == 300_000


def test_a_first_poll_of_zero_decides_nothing(fake: FakeAmdsmi) -> None:
    polls = []

    def pause(seconds: float) -> None:
        polls.append(seconds)
        fake.devices = [Device("0000:0c:00.0", "AMD Instinct MI350X")]
        fake.write()

    fake.devices = [silent("0000:0c:00.0", "AMD Instinct MI350X")]
    fake.write()
    source = plugin.AmdsmiSource(plugin._library(), plugin.AmdsmiConfig(), "boot", pause)
    assert [one.grade for one in meters(source)] == ["counter"]
    assert len(polls) == 2


def test_a_board_that_tells_nothing_when_opened_is_declared_and_comes(fake: FakeAmdsmi) -> None:
    source = opened(fake, silent("0000:0c:00.0"))
    assert only(source).code == "no_value"
    fake.devices = [Device("0000:0c:00.0")]
    fake.write()
    assert only(source).counter_uj == pytest.approx(1_000_000_000, abs=SLACK_UJ)


def test_no_value_is_no_zero(fake: FakeAmdsmi) -> None:
    source = opened(fake)
    for counter in (0, 2**64 - 1):
        fake.devices[0].counter = counter
        fake.write()
        failure = only(source)
        assert isinstance(failure, Failure)
        assert (failure.subject, failure.code) == ("amd-0000:0c:00.0", "no_value")


def test_the_gauge_of_a_counted_board_may_be_absent(fake: FakeAmdsmi) -> None:
    source = opened(fake)
    fake.devices[0].current_w = ABSENT
    fake.devices[0].activity = ABSENT
    fake.write()
    reading = only(source)
    assert reading.power_mw is None
    assert reading.counter_uj > 0
    assert reading.gauges == {"temperature_c": 55.0}


def test_a_table_that_the_driver_no_longer_makes_is_stale(fake: FakeAmdsmi) -> None:
    source = opened(fake)
    fake.devices[0].counter = 66_000_000
    fake.write()
    assert isinstance(only(source), MeterReading)
    assert only(source).code == "stale"
    fake.devices[0].counter = None
    fake.run(60)
    assert isinstance(only(source), MeterReading)


def test_a_counter_that_freezes_under_load_never_becomes_a_joule(fake: FakeAmdsmi) -> None:
    source = opened(fake)
    cut = MeterCut(meter=meters(source)[0], since_ns=0)
    for second in range(60):
        if second == 20:
            fake.devices[0].counter = int(fake.devices[0].energy_j * fake_amdsmi.TICKS_PER_J)
        fake.run(1)
        (reading,) = stamped_at(source, second)
        cut.feed(reading, 60_000_000_000, 0)
    window: MeterWindow = cut.close(0, 60_000_000_000)
    assert window.energy_uj == pytest.approx(19 * 300_000_000, abs=310_000_000)
    assert window.gaps_ns["stuck"] > 30_000_000_000


def stamped_at(source: Source, second: int) -> list[MeterReading]:
    """What the source reads now, stamped with this second."""
    out = []
    for one in source.read():
        assert isinstance(one, MeterReading)
        fields = {name: getattr(one, name) for name in one.__struct_fields__}
        out.append(MeterReading(**{**fields, "at_ns": second * 1_000_000_000}))
    return out


@pytest.mark.parametrize(
    ("status", "code", "same"),
    [
        (BUSY, "in_use", True),
        (NO_PERM, "permission", True),
        (API_FAILED, "amdsmi_7", True),
        (NOT_FOUND, "gpu_lost", False),
    ],
)
def test_a_board_that_does_not_answer_fails_alone(fake: FakeAmdsmi, status: int, code: str, same: bool) -> None:
    source = opened(fake, Device("0000:0c:00.0"), Device("0000:22:00.0"))
    before: Any = source.read()
    fake.failures = {("energy_count", 1): status}
    fake.run(1)
    sound, failed = source.read()
    assert isinstance(sound, MeterReading)
    assert isinstance(failed, Failure)
    assert (failed.subject, failed.code) == ("amd-0000:22:00.0", code)
    fake.failures = {}
    fake.run(1)
    after: Any = source.read()
    assert after[0].epoch == before[0].epoch
    assert (after[1].epoch == before[1].epoch) == same


def test_a_driver_reload_is_survived_in_a_new_epoch(fake: FakeAmdsmi) -> None:
    source = opened(fake, Device("0000:0c:00.0"), Device("0000:22:00.0"))
    before: Any = source.read()
    fake.life += 1
    fake.devices = [Device("0000:22:00.0", energy_j=1, current_w=200), Device("0000:0c:00.0", energy_j=2)]
    fake.write()
    after: Any = source.read()
    assert [one.power_mw for one in after] == [300_000, 200_000]
    assert all(new.epoch != old.epoch for new, old in zip(after, before, strict=True))


def test_while_the_driver_is_away_the_source_is_unavailable_and_then_goes_on(fake: FakeAmdsmi) -> None:
    source = opened(fake)
    fake.failures = {("*", -1): DRIVER_NOT_LOADED, ("energy_count", 0): DRIVER_NOT_LOADED}
    fake.write()
    for _ in range(2):
        with pytest.raises(SourceUnavailable) as raised:
            source.read()
        assert (raised.value.code, raised.value.mend) == ("driver", "load the AMD kernel driver: modprobe amdgpu")
    fake.failures = {}
    fake.write()
    assert isinstance(only(source), MeterReading)


def test_a_board_that_left_the_list_stays_declared_and_fails(fake: FakeAmdsmi) -> None:
    source = opened(fake, Device("0000:0c:00.0"), Device("0000:22:00.0"))
    fake.devices, fake.life = [Device("0000:0c:00.0")], 1
    fake.write()
    sound, gone = source.read()
    assert isinstance(sound, MeterReading)
    assert isinstance(gone, Failure)
    assert (gone.subject, gone.code) == ("amd-0000:22:00.0", "gpu_lost")


@pytest.mark.parametrize(("status", "code"), [(DRIVER_NOT_LOADED, "driver"), (NO_PERM, "permission")])
def test_a_library_that_does_not_begin_is_told_with_its_mend(fake: FakeAmdsmi, status: int, code: str) -> None:
    fake.failures = {("init", -1): status}
    with pytest.raises(SourceUnavailable) as raised:
        opened(fake)
    assert raised.value.code == code
    assert raised.value.mend


def test_a_server_without_boards_is_unavailable(fake: FakeAmdsmi) -> None:
    fake.devices = []
    with pytest.raises(SourceUnavailable) as raised:
        opened(fake)
    assert raised.value.code == "absent"


def test_a_missing_package_is_told_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_amdsmi.forget()
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    with pytest.raises(SourceUnavailable) as raised:
        plugin.open({})
    assert raised.value.code == "package_missing"
    assert "pip install 'joulefleet[amd]'" in raised.value.mend


def test_a_missing_library_is_told_with_its_mend_and_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("amdsmi") is None:
        pytest.skip("the package amdsmi is not installed")
    fake_amdsmi.forget()
    for name in ("ROCM_HOME", "ROCM_PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(SourceUnavailable) as raised:
        plugin.open({})
    assert raised.value.code == "library_missing"
    assert "ROCM_PATH" in raised.value.mend
    assert capsys.readouterr().out == ""


def test_a_library_of_another_release_is_told_with_its_mend(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "lib"
    old.mkdir()
    empty = tmp_path / "empty.c"
    empty.write_text("int nothing;\n")
    fake_amdsmi.compile_library([empty], old / "libamd_smi.so")
    with fake_amdsmi.loaded(tmp_path, tmp_path / "control"), pytest.raises(SourceUnavailable) as raised:
        plugin.open({})
    assert raised.value.code == "library_mismatch"


@pytest.mark.parametrize("table", [{"period": 1}, {"period_s": "1"}, {"period_s": 0.05}])
def test_a_config_that_cannot_be_used_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="amdsmi"):
        plugin.open(table)


def test_the_period_is_the_config_s(fake: FakeAmdsmi) -> None:
    source = opened(fake, period_s=0.5)
    assert (source.period_ns, meters(source)[0].period_ns) == (500_000_000, 500_000_000)
