"""The proxy's file, and what it refuses."""

from pathlib import Path

import pytest

from joulefleet.config import ConfigError
from joulefleet_agent.proxy.config import ProxyConfig, load_config, place


def config(tmp_path: Path, text: str) -> ProxyConfig:
    path = tmp_path / "proxy.toml"
    path.write_text(text)
    return load_config(path, {})


def test_one_line_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = config(tmp_path, 'to = "http://appliance:8000/base"')
    assert (made.listen, made.metrics) == ("127.0.0.1:8400", "127.0.0.1:8401")
    assert made.salt_path == tmp_path / "joulefleet" / "proxy-salt"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "to: name the server"),
        ('to = "appliance:8000"', "expected a URL"),
        ('to = "http://appliance:99999"', "expected a URL"),
        ('to = "http://a/?x=1"', "expected a URL"),
        ('to = "http://user:hunter2@a"', "no place for a password"),
        ('to = "http://a"\nlisten = "8400"', "listen: expected a host and a port"),
        ('to = "http://a"\nmetrics = "a:b"', "metrics: expected"),
        ('to = "http://a"\nenergy_from = "ftp://a"', "energy_from"),
        ('to = "http://a"\nmax_connections = 0', "max_connections"),
        ('to = "http://a"\ncolour = "red"', "colour"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        config(tmp_path, text)
    assert "hunter2" not in str(error.value)


def test_places() -> None:
    assert place("[::1]:8400", "", "") == ("::1", 8400)
    assert place("0.0.0.0:0", "", "") == ("0.0.0.0", 0)
