"""`joulefleet agent proxy`: what the user can mend is one sentence."""

import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from joulefleet_agent.cli import agent
from joulefleet_agent.proxy.config import load_config


def said(*words: str) -> str:
    done = CliRunner().invoke(agent, ["proxy", *words])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.output


def test_what_is_missing_or_wrong(tmp_path: Path) -> None:
    assert "--to http://appliance:8000" in said()
    assert "expected a URL" in said("--to", "appliance")
    assert "listen" in said("--to", "http://a", "--listen", "x")


def test_a_port_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        told = said("--to", "http://a", "--listen", address, "--metrics", "127.0.0.1:0")
    assert told == f"Error: {address}: cannot listen there: the port is in use\n"


def test_the_command_line_stands_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "proxy.toml"
    said = {"to": "http://b", "listen": "127.0.0.1:1"}
    path.write_text('to = "http://a"\ntenant_header = "X-Team"\n')
    made = load_config(path, said)
    assert (made.to, made.listen, made.tenant_header) == ("http://b", "127.0.0.1:1", "X-Team")
    path.write_text('tenant_header = "X-Team"\n')
    assert load_config(path, said) == made


def test_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("joulefleet_agent.proxy.service")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert "pip install 'joulefleet[proxy]'" in said("--to", "http://a")


def test_the_group_knows_it_without_loading_it() -> None:
    assert "proxy" in CliRunner().invoke(agent, ["--help"]).output
