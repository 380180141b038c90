"""`joulefleet agent relay`: what the user can mend is one sentence."""

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from joulefleet_agent.cli import agent

GOOD = '[sources.host]\nuse = "rapl"\n[[serves]]\nserver = "a"\nsource = "host"\n'


def said(tmp_path: Path, text: str) -> str:
    path = tmp_path / "relay.toml"
    path.write_text(text)
    done = CliRunner().invoke(agent, ["relay", "--config", str(path)])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return done.output


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "sources"),
        (GOOD.replace("rapl", "colour"), "colour"),
        (GOOD + "[listen]\nhost = '0.0.0.0'\n", "listen.host"),
        ("key_file = '/nonexistent'\n" + GOOD, "/nonexistent"),
        (GOOD + "[listen]\ntls_certificate = 'a.pem'\n", "listen: tls_certificate and tls_key go together"),
        (GOOD + "[listen]\ntls_certificate = '/none.pem'\ntls_key = '/none.key'\n", "/none.key: No such file"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, told: str) -> None:
    assert told in said(tmp_path, text)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = said(tmp_path, f"{GOOD}[listen]\nport = {port}\n")
        assert told == f"Error: listen: 127.0.0.1:{port} is not to be had: Address already in use\n"


def test_the_group_knows_it_without_loading_it() -> None:
    assert "relay" in CliRunner().invoke(agent, ["--help"]).output
