"""Secrets come from files and go nowhere."""

from collections.abc import Callable
from pathlib import Path

import pytest

from joulefleet.config import ConfigError
from joulefleet.secret import hidden, read_secret, read_token


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "password"


def test_a_secret_is_the_one_line_of_its_file(file: Path) -> None:
    file.write_text("correct h\u00f6rse\n", encoding="utf-8")
    assert read_secret(file) == "correct h\u00f6rse"


def test_a_token_has_no_blanks(file: Path) -> None:
    file.write_text("jf1.k.1.0.abc\n")
    assert read_token(str(file)) == "jf1.k.1.0.abc"


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"tab\there", b"nul\x00", b"\xff"])
@pytest.mark.parametrize("read", [read_secret, read_token])
def test_what_is_no_secret_is_refused_and_not_told(file: Path, content: bytes, read: Callable[[Path], str]) -> None:
    file.write_bytes(b"s3cret" + content if content.strip() else content)
    with pytest.raises(ConfigError) as raised:
        read(file)
    assert str(file) in str(raised.value)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("content", ["with blank", "umlaut \u00e4"])
def test_a_token_stands_in_a_header(file: Path, content: str) -> None:
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="without blanks"):
        read_token(file)


def test_one_that_is_too_short_is_refused(file: Path) -> None:
    file.write_text("hunter2")
    with pytest.raises(ConfigError, match="8 characters or more") as raised:
        read_secret(file, 8)
    assert "hunter2" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none: the secret cannot be read: No such file"):
        read_secret(tmp_path / "none")


def test_secrets_are_hidden_in_what_is_told() -> None:
    assert hidden("login hunter2 failed for hunter2", ["hunter2", "", "a"]) == "login *** failed for ***"
