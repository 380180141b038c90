"""The IPMI source: its bytes, and the calls to the kernel's driver on a fake one in a process of its own."""

import contextlib
import errno
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.ipmi.fake_ipmi import UUID, FakeIpmi, IpmiReader, build, compiler
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import SourceUnavailable
from joulefleet_plugins.meters import ipmi

NOW_S = 1_731_600_000


def answer(watts: int, stamp_s: int = NOW_S, state: int = 0x40) -> bytes:
    return struct.pack("<BBHHHHIIB", 0, 0xDC, watts, 68, 415, 298, stamp_s, 2_685_198_000, state)


def test_the_power_of_an_answer() -> None:
    # A node of 2.6 kW, as its bytes stand in the specification's table.
    told = bytes.fromhex("00 dc 12 0a 46 08 c6 10 07 0a 00 20 35 67 e0 93 04 00 40")
    assert ipmi.power_of(told) == ipmi.Power(2578, 0x67352000)


@pytest.mark.parametrize("state", [0x40, 0x00])
def test_a_power_counts_whether_or_not_it_says_activated(state: int) -> None:
    assert ipmi.power_of(answer(360, state=state)).watts == 360


@pytest.mark.parametrize("stamp_s", [0, 1, 900_000_000, 0xFFFFFFFF])
def test_a_time_of_a_bmc_without_a_clock_is_none(stamp_s: int) -> None:
    assert ipmi.power_of(answer(360, stamp_s)) == ipmi.Power(360, 0)


@pytest.mark.parametrize(
    ("told", "code"),
    [
        (answer(0, state=0), "no_value"),
        (answer(0), "no_value"),
        (answer(0xFFFF), "no_value"),
        (b"", "malformed"),
        (b"\x00", "malformed"),
        (answer(300)[:-1], "malformed"),
        (b"\x00\xdd" + answer(300)[2:], "malformed"),
        (b"\xc1", "not_supported"),
        (b"\xcb", "not_supported"),
        (b"\xc0", "busy"),
        (b"\xc3", "timeout"),
        (b"\xd4", "permission"),
        (b"\xff", "ipmi_ff"),
    ],
)
def test_what_is_no_power_is_refused_with_its_reason(told: bytes, code: str) -> None:
    with pytest.raises(ipmi.Refused) as raised:
        ipmi.power_of(told)
    assert raised.value.code == code


@given(st.binary(max_size=40))
def test_whatever_bytes_come_there_is_a_positive_power_or_a_reason(told: bytes) -> None:
    try:
        power = ipmi.power_of(told)
    except ipmi.Refused as error:
        assert error.code
    else:
        assert 0 < power.watts < 0xFFFF


@pytest.mark.parametrize(
    ("stamp_s", "clock_s", "age_s"),
    [(NOW_S, NOW_S + 3, 3), (NOW_S, NOW_S - 1, 0), (NOW_S, NOW_S + 7200, 0), (0, NOW_S, 0), (NOW_S, 0, 0)],
)
def test_a_value_is_as_old_as_the_bmc_s_own_clock_says(stamp_s: int, clock_s: int, age_s: int) -> None:
    assert ipmi.age_s(stamp_s, clock_s) == age_s


def test_a_bmc_s_clock() -> None:
    assert ipmi.clock_of(b"\x00" + struct.pack("<I", NOW_S)) == NOW_S
    assert [ipmi.clock_of(told) for told in (b"", b"\xc1", b"\x00\x01", b"\x00\x01\x00\x00\x00")] == [0] * 4


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if compiler() is None:
        pytest.skip("no C compiler to build the fake IPMI driver with")
    return build(tmp_path_factory.mktemp("ipmi"))


@pytest.fixture
def fake(library: Path, tmp_path: Path) -> FakeIpmi:
    return FakeIpmi(tmp_path, library)


@pytest.fixture
def reader(fake: FakeIpmi) -> Iterator[IpmiReader]:
    made = IpmiReader(fake.environment())
    with contextlib.closing(made):
        yield made


def only(reader: IpmiReader) -> Any:
    (reading,) = reader.read()
    return reading


def test_the_server_is_declared_with_all_that_accounting_needs(fake: FakeIpmi, reader: IpmiReader) -> None:
    (meter,) = reader.open(**fake.table)
    assert meter == Meter(
        id="ipmi0",
        kind="server",
        grade="integrated",
        sensor_class="platform",
        contains=("accelerator", "module", "cpu_package", "cpu_core", "dram", "psys", "host"),
        device=f"server:{UUID.lower()}",
        hw_model="PowerEdge R760",
        period_ns=5_000_000_000,
        max_power_mw=30_000_000,
        current="ac",
    )


def test_the_power_is_read_through_the_driver_with_its_age(fake: FakeIpmi, reader: IpmiReader) -> None:
    reader.open(**fake.table)
    assert isinstance(only(reader), MeterReading)
    fake.wait(10, watts=401)
    fake.set(stamp_s=fake.sel_s - 3)
    reading = only(reader)
    assert reading.power_mw == 401_000
    assert 3e9 <= reading.age_ns < 5e9


def test_a_bmc_without_a_clock_tells_no_age(fake: FakeIpmi, reader: IpmiReader) -> None:
    fake.set(sel_s=-1)
    reader.open(**fake.table)
    assert only(reader).age_ns == 0


def test_events_and_late_answers_are_passed_over(fake: FakeIpmi, reader: IpmiReader) -> None:
    reader.open(**fake.table)
    fake.set(noise=1)
    assert [only(reader).power_mw for _ in range(4)] == [332_000] * 4


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"watts": 0, "state": 0}, "no_value"),
        ({"code": 0xC0}, "busy"),
        ({"silent": 1}, "timeout"),
        ({"length": 5}, "malformed"),
        ({"errno": errno.ENODEV}, "read_failed"),
        ({"errno": errno.EACCES}, "permission"),
    ],
)
def test_a_read_without_a_value_is_a_failure_and_the_next_one_is_good(
    fake: FakeIpmi, reader: IpmiReader, fault: dict[str, int], code: str
) -> None:
    reader.open(**fake.table)
    well = {name: getattr(fake, name) for name in fault}
    fake.set(**fault)
    failure = only(reader)
    assert isinstance(failure, Failure)
    assert (failure.subject, failure.code) == ("ipmi0", code)
    fake.set(**well)
    assert only(reader).power_mw == 332_000


def test_a_value_whose_time_stamp_stands_still_is_stale_until_it_moves(fake: FakeIpmi, reader: IpmiReader) -> None:
    reader.open(**fake.table)
    assert only(reader).power_mw == 332_000
    for _ in range(7):
        stamp_s = fake.stamp_s
        fake.wait(10)
        fake.set(stamp_s=stamp_s)
        last = only(reader)
    assert last.code == "stale"
    fake.wait(10)
    assert only(reader).power_mw == 332_000


@pytest.mark.parametrize(
    ("fault", "code", "mend"),
    [
        ({"code": 0xC1}, "not_supported", "redfish"),
        ({"watts": 0, "state": 0}, "no_value", "redfish"),
        ({"errno": errno.EACCES}, "permission", 'KERNEL=="ipmi*"'),
        ({"errno": errno.EIO}, "read_failed", ""),
        ({"silent": 1}, "timeout", ""),
    ],
)
def test_a_bmc_that_tells_no_power_makes_the_source_unavailable(
    fake: FakeIpmi, reader: IpmiReader, fault: dict[str, int], code: str, mend: str
) -> None:
    fake.set(**fault)
    with pytest.raises(SourceUnavailable) as raised:
        reader.open(**fake.table)
    assert raised.value.code == code
    assert mend in raised.value.mend


def test_a_host_without_a_bmc_is_told_which_driver_makes_the_device(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable) as raised:
        ipmi.open({"path": str(tmp_path / "ipmi0")})
    assert raised.value.code == "absent"
    assert "ipmi_devintf" in raised.value.mend


@pytest.mark.parametrize("table", [{"paths": "/dev/ipmi0"}, {"period_s": 0.1}, {"timeout_s": 0}])
def test_a_config_that_cannot_be_used_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="ipmi"):
        ipmi.open(table)
