"""The relay's file: which source serves whom, and what cannot be meant."""

from pathlib import Path

import pytest

from joulefleet.config import ConfigError
from joulefleet_agent.relay_config import load_config

GOOD = """
key_file = "keys.toml"
[listen]
port = 0
[sources.rack-12]
use = "snmp"
pdu = "apc_outlet"
[sources.bmc-17]
use = "redfish"
[[serves]]
server = "gpu-17"
source = "rack-12"
meters = ["gpu-17"]
[[serves]]
server = "gpu-17"
source = "bmc-17"
[[serves]]
server = "gpu-18"
source = "rack-12"
meters = ["gpu-18"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "relay.toml"
    path.write_text(text)
    return path


def test_who_may_have_what(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD))
    assert config.rights == {
        "gpu-17": {"rack-12": frozenset({"gpu-17"}), "bmc-17": frozenset()},
        "gpu-18": {"rack-12": frozenset({"gpu-18"})},
    }
    assert config.sources["rack-12"] == {"use": "snmp", "pdu": "apc_outlet"}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('source = "bmc-17"', 'source = "bmc-71"', "serves[1].source"),
        ('source = "bmc-17"', 'source = "rack-12"', "serves[1]"),
        ('use = "redfish"', "verify = true", "sources.bmc-17.use"),
        ("[listen]", '[sources."a/b"]\nuse = "x"\n[listen]', "without '/'"),
        ("port = 0", 'host = "0.0.0.0"', "listen.host"),
        ("port = 0", 'colour = "red"', "listen.colour"),
        ('server = "gpu-18"', "", "serves[2].server"),
        ('meters = ["gpu-18"]', "", "serves[2].meters: all meters of 'rack-12' would"),
        ('meters = ["gpu-18"]', 'meters = ["gpu-18", "gpu-17"]', "gpu-17 would be"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(written(tmp_path, GOOD.replace(old, new)))
    assert told in str(refused.value)


def test_other_machines_reach_it_with_keys_and_a_certificate(tmp_path: Path) -> None:
    listen = 'host = "0.0.0.0"\ntls_certificate = "c.pem"\ntls_key = "k.pem"'
    assert load_config(written(tmp_path, GOOD.replace("port = 0", listen))).listen.has_tls
