"""The Redfish source on a BMC of its own, over real HTTPS; its time is the test's."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fixtures.redfish.fake_bmc import BEGIN, PASSWORD, USER, Certificate, FakeBmc, has_openssl, running
from fixtures.redfish.trees import GPU_UUIDS, UUID, V1, collection, hgx, idrac, ilo, sensor, to, x10
from joulefleet.config import ConfigError, typed
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.source import SourceUnavailable
from joulefleet_plugins.meters import redfish
from joulefleet_plugins.meters.redfish import RedfishConfig, RedfishSource, opened, read_password

PARTS = ("accelerator", "module", "cpu_package", "cpu_core", "dram", "psys", "host")
CHASSIS = f"{V1}/Chassis/1U"
Open = Callable[..., RedfishSource]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    if not has_openssl():
        pytest.skip("openssl is not on this machine: no certificate can be made")
    return Certificate.made(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def fake(certificate: Certificate) -> Iterator[FakeBmc]:
    with running(FakeBmc(), certificate) as bmc:
        yield bmc


@pytest.fixture
def table(fake: FakeBmc, certificate: Certificate, tmp_path: Path) -> dict[str, Any]:
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    return {
        "url": fake.url,
        "user": USER,
        "password_file": str(password),
        "fingerprint_sha256": certificate.fingerprint,
    }


@pytest.fixture
def open_source(fake: FakeBmc, table: dict[str, Any]) -> Iterator[Open]:
    with contextlib.ExitStack() as ends:

        def start(**more: Any) -> RedfishSource:
            source = opened(typed(table | more, RedfishConfig, "redfish"), fake.now_s)
            ends.callback(source.close)
            return source

        yield start


def only(source: RedfishSource) -> Any:
    (reading,) = source.read()
    return reading


def unavailable(open_source: Open, **more: Any) -> SourceUnavailable:
    with pytest.raises(SourceUnavailable) as raised:
        open_source(**more)
    assert PASSWORD not in "".join(traceback.format_exception(raised.value))
    return raised.value


def test_a_server_that_counts_joules_is_declared_with_all_that_accounting_needs(open_source: Open) -> None:
    assert open_source().declares == (
        Meter(
            id="redfish/1U",
            kind="server",
            grade="counter",
            sensor_class="platform",
            contains=PARTS,
            device=f"server:{UUID}",
            hw_model="3500RX",
            resolution_uj=1_000_000,
            refresh_ns=2_500_000_000,
            period_ns=10_000_000_000,
            max_power_mw=2_000_000,
            driver="redfish environment",
        ),
    )


def test_counter_and_gauge_are_read_together_with_their_age(fake: FakeBmc, open_source: Open) -> None:
    source = open_source()
    fake.run(10, watts=400)
    fake.clock += timedelta(seconds=2)
    assert only(source) == MeterReading(
        meter="redfish/1U", counter_uj=5_004_000_000_000, power_mw=400_000, age_ns=2_000_000_000
    )


def test_a_server_that_tells_watts_only_is_integrated(fake: FakeBmc, open_source: Open) -> None:
    fake.make = idrac
    source = open_source()
    (meter,) = source.declares
    assert isinstance(meter, Meter)
    assert (meter.grade, meter.resolution_uj, meter.refresh_ns) == ("integrated", 0, 0)
    assert (meter.max_power_mw, meter.current, meter.driver) == (2_800_000, "dc", "redfish power_control")
    fake.run(10, watts=401)
    assert only(source) == MeterReading(meter="redfish/System.Embedded.1", power_mw=401_000)


def test_the_inputs_of_the_supplies_are_alternating_current(fake: FakeBmc, open_source: Open) -> None:
    fake.make = idrac
    source = open_source(route="power_supplies", id="input")
    (meter,) = source.declares
    assert isinstance(meter, Meter)
    assert (meter.id, meter.current, meter.grade) == ("input", "ac", "integrated")
    assert only(source).power_mw == 385_000, "with what the supplies lose themselves"


def test_0_w_with_health_ok_is_no_value(fake: FakeBmc, open_source: Open) -> None:
    fake.make = ilo
    source = open_source()
    fake.watts = 0
    failure = only(source)
    assert (failure.subject, failure.code) == ("redfish/1", "no_value")
    fake.watts = 350
    assert only(source).power_mw == 350_000


def test_a_bmc_that_says_0_w_is_read_where_it_measures(fake: FakeBmc, open_source: Open) -> None:
    fake.make = x10
    assert only(open_source()).power_mw == 350_000


def test_a_bmc_that_measures_nowhere_is_unavailable(fake: FakeBmc, open_source: Open) -> None:
    fake.make, fake.watts = ilo, 0
    error = unavailable(open_source)
    assert (error.code, "licence" in error.mend) == ("no_value", True)
    assert not fake.sessions, "and the session is given back"


def test_an_enclosure_is_none_of_a_server_s_meters(fake: FakeBmc, open_source: Open) -> None:
    fake.patch[CHASSIS] = fake.tree[CHASSIS] | {"ChassisType": "Enclosure"}
    (meter,) = open_source().declares
    assert isinstance(meter, Meter)
    assert (meter.kind, meter.contains) == ("enclosure", ("server", *PARTS))


def test_gpus_are_left_out_unless_asked_for(fake: FakeBmc, open_source: Open) -> None:
    fake.make = hgx
    assert [one.id for one in open_source().declares] == ["redfish/Chassis_0"]
    server, *boards = open_source(accelerators=True).declares
    assert [(one.id, one.device, one.sensor_class, one.grade) for one in boards if isinstance(one, Meter)] == [
        (f"redfish/GPU_{k}", f"GPU-{uuid}", "onboard", "counter") for k, uuid in enumerate(GPU_UUIDS)
    ]
    assert server.id == "redfish/Chassis_0"


def test_gpus_whose_driver_tells_no_uuid_could_be_counted_twice(fake: FakeBmc, open_source: Open) -> None:
    fake.make = hgx
    for gpu in ("GPU_0", "GPU_1"):
        path = f"{V1}/Systems/HGX_Baseboard_0/Processors/{gpu}"
        fake.patch[path] = fake.tree[path] | {"Manufacturer": "AMD"}
    assert [one.id for one in open_source(accelerators=True).declares] == ["redfish/Chassis_0"]


def test_the_bmc_of_a_board_of_gpus_alone_has_no_server(fake: FakeBmc, open_source: Open) -> None:
    fake.make = hgx
    fake.patch[f"{V1}/Systems"] = collection(f"{V1}/Systems/HGX_Baseboard_0")
    assert unavailable(open_source).code == "absent"
    assert [one.id for one in open_source(accelerators=True).declares] == ["redfish/GPU_0", "redfish/GPU_1"]


def test_one_gpu_that_fails_leaves_the_others(fake: FakeBmc, open_source: Open) -> None:
    fake.make = hgx
    source = open_source(accelerators=True)
    fake.patch[f"{V1}/Systems/HGX_Baseboard_0/Processors/GPU_0/EnvironmentMetrics"] = None
    codes = [one.code if isinstance(one, Failure) else "" for one in source.read()]
    assert codes == ["", "not_found", ""]


def test_a_value_whose_time_stamp_stands_still_is_stale_until_it_moves(fake: FakeBmc, open_source: Open) -> None:
    source = open_source()
    codes = []
    for _ in range(9):
        fake.seconds += 10
        fake.clock += timedelta(seconds=10)
        reading = only(source)
        codes.append(reading.code if isinstance(reading, Failure) else "")
    assert codes == [""] * 7 + ["stale"] * 2
    fake.run(10)
    assert only(source).power_mw == 350_000


def test_an_age_never_leads_past_the_stamp(fake: FakeBmc, open_source: Open) -> None:
    source = open_source()
    for seconds in (10, 20, 30):
        fake.clock = BEGIN + timedelta(seconds=seconds)
        assert only(source).age_ns == seconds * 1_000_000_000


def test_a_quiet_server_s_constant_power_is_believed(fake: FakeBmc, open_source: Open) -> None:
    fake.make = ilo
    source = open_source()
    for _ in range(400):
        fake.run(10)
        assert only(source).power_mw == 350_000


def test_a_value_without_a_stamp_that_stands_still_among_others_is_stuck(fake: FakeBmc, open_source: Open) -> None:
    fake.make = idrac
    source = open_source()
    power = f"{V1}/Chassis/System.Embedded.1/Power"
    codes = set()
    for k in range(200):
        fake.run(10)
        moving = fake.make(350.0 + k, 0, BEGIN)[power]
        moving["PowerControl"][0]["PowerConsumedWatts"] = 350
        fake.patch[power] = moving
        reading = only(source)
        codes.add(reading.code if isinstance(reading, Failure) else "")
    assert codes == {"", "stuck"}


def test_times_of_1970_and_of_another_clock_are_no_ages(fake: FakeBmc, open_source: Open) -> None:
    fake.make = hgx
    source = open_source()
    fake.clock += timedelta(days=1)
    assert only(source).age_ns == 0
    path = f"{V1}/Chassis/Chassis_0/Sensors/Chassis_0_TotalHSC_Power_0"
    fake.patch[path] = sensor("Power", 351) | {"ReadingTime": "1970-01-01T00:00:12+00:00"}
    assert only(source) == MeterReading(meter="redfish/Chassis_0", power_mw=351_000)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"status": 503}, "busy"),
        ({"status": 429}, "busy"),
        ({"status": 500}, "http_status"),
        ({"status": 403}, "permission"),
        ({"status": 404}, "not_found"),
        ({"drops": 2}, "unreachable"),
        ({"cut": True}, "truncated"),
        ({"body": b'{"PowerControl": ['}, "malformed"),
        ({"body": b"x" * 5_000_000}, "too_large"),
        ({"body": b'{"Reading": "350"}'}, "malformed"),
        ({"body": b'{"Reading": null}'}, "no_value"),
        ({"body": b'{"Reading": -350}'}, "implausible"),
    ],
)
def test_a_poll_without_a_value_is_a_failure_and_the_next_one_is_good(
    fake: FakeBmc, open_source: Open, fault: dict[str, Any], code: str
) -> None:
    source = open_source()
    well = {name: getattr(fake, name) for name in fault}
    for name, value in fault.items():
        setattr(fake, name, value)
    failure = only(source)
    assert isinstance(failure, Failure)
    assert (failure.subject, failure.code) == ("redfish/1U", code)
    for name, value in well.items():
        setattr(fake, name, value)
    fake.run(10)
    assert isinstance(only(source), MeterReading)


def test_an_expired_session_costs_no_reading(fake: FakeBmc, open_source: Open) -> None:
    source = open_source()
    fake.sessions.clear()
    assert only(source).power_mw == 350_000


def test_a_password_that_was_changed_locks_nobody_out(fake: FakeBmc, open_source: Open) -> None:
    source = open_source()
    logins = fake.count("POST")
    fake.password = "another"
    fake.sessions.clear()
    for _ in range(60):
        fake.run(10)
        assert only(source).code == "permission"
    assert fake.count("POST") <= logins + 2


def test_a_password_that_can_no_longer_be_read_is_a_failure(
    fake: FakeBmc, open_source: Open, table: dict[str, Any]
) -> None:
    source = open_source()
    fake.sessions.clear()
    Path(table["password_file"]).unlink()
    assert only(source).code == "permission"


def test_a_wrong_password_at_the_start_is_tried_again_in_ten_minutes_only(fake: FakeBmc, open_source: Open) -> None:
    fake.password = "another"
    error = unavailable(open_source)
    assert (error.code, error.again_s) == ("permission", 600)
    assert "password_file" in error.mend


def test_an_account_that_may_read_nothing_is_told(fake: FakeBmc, open_source: Open) -> None:
    fake.status = 403
    assert unavailable(open_source).code == "permission"


def test_a_certificate_that_is_not_known_is_told_with_its_fingerprint(
    fake: FakeBmc, open_source: Open, certificate: Certificate
) -> None:
    error = unavailable(open_source, fingerprint_sha256="")
    assert error.code == "tls"
    assert certificate.fingerprint.replace(":", "").lower() in error.mend


def test_a_period_is_twice_what_a_poll_takes_at_least(fake: FakeBmc, open_source: Open) -> None:
    fake.latency_s = 4
    source = open_source()
    assert source.period_ns == 16_000_000_000
    (meter,) = source.declares
    assert meter.period_ns == source.period_ns
    assert only(source).power_mw == 350_000
    assert source.deadline_ns > 30_000_000_000


def test_a_poll_has_a_time_limit(fake: FakeBmc, open_source: Open) -> None:
    source = open_source(timeout_s=5)
    fake.latency_s = 3
    assert only(source).code == "timeout"


def test_only_what_is_needed_is_asked_and_one_thing_at_a_time(fake: FakeBmc, open_source: Open) -> None:
    source = open_source()
    fake.asked.clear()
    for _ in range(3):
        fake.run(10)
        only(source)
    assert fake.asked == [f"GET {CHASSIS}/Sensors/TotalEnergyJoules", f"GET {CHASSIS}/Sensors/TotalPower"] * 3


def test_a_supply_that_is_put_in_later_is_found_within_ten_minutes(fake: FakeBmc, open_source: Open) -> None:
    source = open_source(route="power_supplies")
    supplies = f"{CHASSIS}/PowerSubsystem/PowerSupplies"
    fake.patch[f"{supplies}/Bay3"] = fake.tree[f"{supplies}/Bay1"] | {"Metrics": to(f"{supplies}/Bay3/Metrics")}
    fake.patch[f"{supplies}/Bay3/Metrics"] = {"InputPowerWatts": {"Reading": 100}}
    assert only(source).power_mw == 350_000
    fake.run(601)
    assert only(source).power_mw == 450_000


def test_a_value_that_moved_to_another_resource_is_found_there(fake: FakeBmc, open_source: Open) -> None:
    fake.make = hgx
    source = open_source()
    sensors = f"{V1}/Chassis/Chassis_0/Sensors"
    fake.patch[f"{sensors}/Chassis_0_TotalHSC_Power_0"] = None
    fake.patch[f"{sensors}/System_Total_Power"] = sensor("Power", 360)
    fake.patch[sensors] = collection(f"{sensors}/System_Total_Power")
    assert only(source).code == "not_found"
    assert only(source).power_mw == 360_000


def test_a_counter_that_is_read_elsewhere_is_another_life_of_it(fake: FakeBmc, open_source: Open) -> None:
    source = open_source()
    assert only(source).epoch == ""
    fake.patch[f"{CHASSIS}/Sensors/TotalEnergyJoules"] = None
    assert only(source).code == "not_found"
    reading = only(source)
    assert (reading.counter_uj, reading.epoch) == (5_000_000_000_000, "#1")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"url": "bmc-17"}, "url"),
        ({"url": "https://user:secret@bmc"}, "url"),
        ({"url": "https://bmc/redfish/v1/Chassis/1"}, "url"),
        ({"url": "https://bmc:99999"}, "url"),
        ({"url": "http://bmc-17.example"}, "everybody on the way"),
        ({"fingerprint_sha256": "12:34"}, "64 hexadecimal digits"),
        ({"verify": False}, "at most one"),
        ({"ca_file": "/ca.pem"}, "at most one"),
        ({"password_env": "P"}, "needs one of"),
        ({"user": ""}, "need user"),
        ({"route": "guess"}, "route"),
        ({"period_s": 0.5}, "period_s"),
        ({"password": PASSWORD}, "password"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(table: dict[str, Any], more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        redfish.open(table | more)
    assert "secret" not in str(raised.value)


def test_without_a_url_there_is_nothing_to_find() -> None:
    with pytest.raises(ConfigError, match="url"):
        redfish.open({})


def test_a_bmc_that_is_not_there_is_told() -> None:
    with pytest.raises(SourceUnavailable) as raised:
        redfish.open({"url": "http://127.0.0.1:1", "timeout_s": 2})
    assert (raised.value.code, raised.value.again_s) == ("unreachable", 0)


def test_a_password_is_in_a_file_that_others_may_not_read_or_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text("correct horse\n")
    file.chmod(0o640)
    assert read_password(str(file), "") == "correct horse"
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod o="):
        read_password(str(file), "")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_password(str(tmp_path / "none"), "")
    monkeypatch.setenv("BMC_PASSWORD", "battery staple")
    assert read_password("", "BMC_PASSWORD") == "battery staple"
    with pytest.raises(ConfigError, match="NO_SUCH"):
        read_password("", "NO_SUCH")


def test_a_source_shows_no_secret(fake: FakeBmc, open_source: Open) -> None:
    source = open_source()
    token = next(iter(fake.sessions))
    shown = repr(source) + repr(vars(source)) + repr(source.declares)
    assert PASSWORD not in shown
    assert token not in shown
