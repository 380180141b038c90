"""The agent's configuration: what is wrong is refused by file, key and what was expected."""

import socket
from pathlib import Path

import pytest

from joulefleet.config import ConfigError
from joulefleet_agent.config import AgentConfig, SourceConfig, load_config, sources_of
from joulefleet_agent.spool import Bounds

TOKEN = "jf1.k1.3.1800000000.c2VjcmV0"
WHOLE = """
server = "gpu-17"
pool = "prod"
site = "fra"
hardware = "H100 x8"
step_s = 10
spool = "/tmp/spool.db"

[labels]
rack = "r7"

[spool_bounds]
max_bytes = 1000000

[collector]
url = "https://collector.example:8765/fleet"
token_file = "/etc/joulefleet/token"

[[sources]]
use = "nvml"

[[sources]]
use = "openmetrics"
url = "http://127.0.0.1:8000/metrics"
"""


def loaded(tmp_path: Path, text: str) -> AgentConfig:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load_config(path)


def refused(tmp_path: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, text)
    assert error.value.where == str(tmp_path / "agent.toml")
    return error.value


def test_a_whole_file(tmp_path: Path) -> None:
    config = loaded(tmp_path, WHOLE)
    assert (config.name, config.pool, config.site, config.hardware) == ("gpu-17", "prod", "fra", "H100 x8")
    assert config.step_ns == 10_000_000_000
    assert config.labels == {"rack": "r7"}
    assert config.spool_bounds == Bounds(max_bytes=1_000_000)
    assert config.collector.url == "https://collector.example:8765/fleet"
    assert sources_of(config, "") == [
        SourceConfig("nvml", {}),
        SourceConfig("openmetrics", {"url": "http://127.0.0.1:8000/metrics"}),
    ]


def test_an_empty_file_is_a_server_by_the_hosts_name(tmp_path: Path) -> None:
    config = loaded(tmp_path, "")
    assert config.name == socket.gethostname()
    assert config.step_ns == 60_000_000_000
    assert sources_of(config, "") == []


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("stepp_s = 10", "stepp_s", "unknown field"),
        ('step_s = "10"', "step_s", "expected `float`"),
        ("step_s = 7", "step_s", "divide an hour"),
        ("step_s = 0", "step_s", "divide an hour"),
        ("step_s = 0.5", "step_s", "divide an hour"),
        ("[collector]\nurll = 'x'", "collector.urll", "unknown field"),
        ("[spool_bounds]\nmax_bytes = 1.5", "spool_bounds.max_bytes", "expected `int`"),
        ("[labels]\nserver = 'x'", "labels.server", "not a word of ours"),
        ("[labels]\n'a b' = 'x'", "labels.a b", "letters"),
        ("[[sources]]\nperiod_s = 1", "sources[0].use", "nvml"),
        ("sources = [{use = 'a'}, {use = 5}]", "sources[1].use", "name of a source"),
        ("server =", "", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, key: str, expected: str) -> None:
    error = refused(tmp_path, text)
    assert error.key == key
    assert expected in str(error)


@pytest.mark.parametrize(
    "url",
    ["collector:8765", "ftp://c", "http://", "http://:8765", "http://c:port", "http://c:99999", "http://c/?a=1"],
)
def test_a_url_that_leads_nowhere_is_refused(tmp_path: Path, url: str) -> None:
    assert refused(tmp_path, f"[collector]\nurl = '{url}'").key == "collector.url"


def test_a_password_in_a_url_is_refused_and_not_told(tmp_path: Path) -> None:
    error = refused(tmp_path, "[collector]\nurl = 'https://me:s3cret@collector.example'")
    assert error.key == "collector.url"
    assert "s3cret" not in str(error)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"agent\.toml: cannot be read: No such file"):
        load_config(tmp_path / "agent.toml")
