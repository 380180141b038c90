"""Secrets come from files and go nowhere."""

from pathlib import Path

import pytest

from joulefleet.config import ConfigError
from joulefleet_plugins.meters.secret import hidden, secret


def test_a_secret_is_the_one_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("correct horse\n")
    assert secret(str(file), "source exec", "secrets.PASSWORD") == "correct horse"


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", "gr\u00fcn".encode(), b"tab\there"])
def test_what_is_no_secret_is_refused_and_not_told(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        secret(str(file), "source exec", "secrets.PASSWORD")
    assert str(file) in str(raised.value)
    assert "lines" not in str(raised.value).replace(str(file), "")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"secrets\.PASSWORD: .*none cannot be read"):
        secret(str(tmp_path / "none"), "source exec", "secrets.PASSWORD")


def test_secrets_are_hidden_in_what_is_told() -> None:
    assert hidden("login hunter2 failed for hunter2", ["hunter2", "", "a"]) == "login *** failed for ***"
