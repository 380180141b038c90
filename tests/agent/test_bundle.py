"""The support file: nothing that tells who, where, or a secret."""

import json
import os
import platform
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Meter
from joulefleet_agent.bundle import Scrubber, bundle, machine, redacted, write
from joulefleet_agent.doctor import report
from joulefleet_agent.probe import Finding

CONFIG: dict[str, Any] = {
    "server": "canary-host-17",
    "labels": {"owner": "canary-owner"},
    "collector": {
        "url": "https://canary-user:canary-pw@canary-collector.example:8765/x?token=canary-q",
        "token_file": "/etc/canary.token",
    },
    "sources": [
        {"use": "redfish", "url": "https://canary-bmc.example", "user": "canary-login", "password": "canary-pass"},
        {"use": "exec", "command": ["ipmitool", "-P", "canary-arg"], "period_s": 2.5, "verify": False},
        {"use": "snmp_pdu", "community": "canary-community", "headers": {"X": "canary-header"}, "pin": 4711},
    ],
}
METER = Meter(
    id="GPU-6d0f9a3e-1b2c-4d5e-8f90-a1b2c3d4e5f6",
    kind="accelerator",
    grade="counter",
    sensor_class="onboard",
    device="GPU-6d0f9a3e-1b2c-4d5e-8f90-a1b2c3d4e5f6",
    hw_model="NVIDIA H200",
    driver="560.35.03",
)


def findings() -> list[Finding]:
    said = (
        f"canary-bmc.example:443 on {socket.gethostname()} at 10.11.12.13 and fe80::1:2:3:4, serial CANARY12345,"
        " mac 0a:1b:2c:3d:4e:5f, https://other-canary.example/redfish/v1, /home/canaryperson/x, canary-pass"
    )
    return [
        Finding(source="nvml", state="readable", meters=(METER,)),
        Finding(source="rapl", state="permission", detail="/sys/class/powercap/intel-rapl:0/energy_uj may not be read"),
        Finding(source="redfish", state="fault", detail=said, mend=said),
    ]


def text() -> str:
    return bundle(report(findings()), CONFIG).decode()


@pytest.fixture(params=["vm", "canary-own-host.example"], autouse=True, scope="module")
def host(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the machine, a short one or a long one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: str(request.param))
        patch.setattr(platform, "node", lambda: str(request.param))
        yield str(request.param)


SECRETS = ("canary", "4711", "10.11.12.13", "fe80", "0a:1b:2c", "6d0f9a3e", "canary12345", "canaryperson")


def test_no_name_address_serial_or_secret_is_in_it(host: str) -> None:
    said = text().lower()
    assert [one for one in SECRETS if one in said] == []
    assert not re.search(rf"\b{host}\b", said)


def test_what_helps_is_in_it() -> None:
    told = json.loads(text())
    assert [one["source"] for one in told["doctor"]["findings"]] == ["nvml", "rapl", "redfish"]
    nvml, rapl, _ = told["doctor"]["findings"]
    assert (nvml["meters"][0]["hw_model"], nvml["meters"][0]["driver"]) == ("NVIDIA H200", "560.35.03")
    assert re.fullmatch(r"[0-9a-f]+", told["machine"]["capabilities"]) and told["machine"]["root"] in (True, False)
    assert nvml["meters"][0]["id"] == nvml["meters"][0]["device"]
    assert rapl["detail"] == "/sys/class/powercap/intel-rapl:0/energy_uj may not be read"
    assert told["machine"]["joulefleet"] and isinstance(told["machine"]["packages"], dict)
    assert [one["use"] for one in told["config"]["sources"]] == ["redfish", "exec", "snmp_pdu"]
    assert told["config"]["sources"][1] == {"use": "exec", "command": ["(text)"] * 3, "period_s": 2.5, "verify": False}
    assert told["config"]["collector"]["url"] == "https://(host):8765"


def test_the_same_name_has_the_same_mark_in_one_file_and_another_in_the_next() -> None:
    one, other = Scrubber(["gpu-17"], b"a"), Scrubber(["gpu-17"], b"b")
    assert one.text("gpu-17 and GPU-17").split(" and ")[0] == one.text("gpu-17")
    assert one.text("gpu-17") != other.text("gpu-17")
    assert one.clean({"id": ["gpu-17", 5, None]}) == {"id": [one.text("gpu-17"), 5, None]}


HARMLESS = ("package-0/dram", "0000:41:00.0", "560.35.03", "AMD EPYC 7763 64-Core Processor", "intel-rapl:0:1", "H200")


@pytest.mark.parametrize("harmless", HARMLESS)
def test_what_tells_no_one_stays(harmless: str) -> None:
    assert Scrubber([], b"a").text(harmless) == harmless


ANYTHING = st.recursive(
    st.text(min_size=1) | st.integers() | st.booleans(), lambda each: st.lists(each) | st.dictionaries(st.text(), each)
)


@given(ANYTHING)
def test_no_text_of_a_config_is_kept_but_our_own_words(value: Any) -> None:
    allowed = re.compile(r"\(text\)|\(left out\)|\w+://\(host\)(:\d+)?|rapl|")
    texts = _texts(redacted({"sources": [{"x": value, "use": "rapl"}]}))
    assert all(allowed.fullmatch(one) for one in texts), texts


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    return [value] if isinstance(value, str) else []


def test_it_is_written_for_its_owner_only_and_never_over_another_file(tmp_path: Path) -> None:
    write(tmp_path / "b.json", b"{}")
    assert (tmp_path / "b.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write(tmp_path / "b.json", b"{}")


def test_a_file_that_a_config_names_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")  # to read it would take for ever
    assert "(left out)" in bundle(report([]), {"collector": {"token_file": str(tmp_path / "token")}}).decode()


def test_the_machine_is_described_without_its_name() -> None:
    assert {"python", "system", "sources", "root", "hwmon"} <= set(machine())
