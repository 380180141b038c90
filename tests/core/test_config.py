"""A configuration that cannot be used names the file, the key and what was expected."""

from pathlib import Path
from typing import Literal

import msgspec
import pytest

from joulefleet.config import ConfigError, is_loopback, load, typed


class SourceTable(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    period_s: float = 1.0
    tags: dict[str, int] = {}
    grade: Literal["counter", "percent"] | None = None
    colours: dict[str, Literal["red", "blue"]] = {}


class Form(msgspec.Struct, forbid_unknown_fields=True):
    server: str = ""
    sources: list[SourceTable] = []
    phases: tuple[Literal["prefill", "decode"], ...] = ()


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "agent.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        load(path, Form)
    assert error.value.where == str(path)
    assert str(error.value).startswith(str(path))
    return error.value


def test_a_file_becomes_a_struct(tmp_path: Path) -> None:
    path = written(tmp_path, 'server = "ä"\n[[sources]]\nname = "rapl"\nperiod_s = 2\n')
    assert load(path, Form) == Form(server="ä", sources=[SourceTable(name="rapl", period_s=2.0)])


def test_an_empty_file_has_the_defaults(tmp_path: Path) -> None:
    assert load(written(tmp_path, ""), Form) == Form()


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ('sever = "a"', "sever", "object contains unknown field `sever`"),
        ('[[sources]]\nname = "a"\nperiod = 1', "sources[0].period", "object contains unknown field `period`"),
        ("[[sources]]\nperiod_s = 1", "sources[0].name", "object missing required field `name`"),
        ('[[sources]]\nname = "a"\nperiod_s = "1"', "sources[0].period_s", "expected `float`, got `str`"),
        ('[[sources]]\nname = "a"\n[[sources]]\nname = 3', "sources[1].name", "expected `str`, got `int`"),
        ('[sources]\nname = "a"', "sources", "expected `array`, got `object`"),
        ('[[sources]]\nname = "a"\ngrade = "x"', "sources[0].grade", "'x' is not one of counter, percent"),
        ('[[sources]]\nname = "a"\ncolours.a = "x"', "sources[0].colours[...]", "'x' is not one of blue, red"),
        ('phases = ["decode", "x"]', "phases[1]", "'x' is not one of decode, prefill"),
        ('[[sources]]\nname = "a"\n[sources.tags]\nx = "y"', "sources[0].tags[...]", "expected `int`, got `str`"),
    ],
)
def test_a_wrong_key_or_type_is_named(tmp_path: Path, text: str, key: str, expected: str) -> None:
    error = refused(written(tmp_path, text))
    assert (error.key, error.expected) == (key, expected)
    assert str(error) == f"{error.where}: {key}: {expected}"


@pytest.mark.parametrize("text", ['server = "a', "server = 1\nserver = 2", b'server = "\xff"'])
def test_what_is_not_toml(tmp_path: Path, text: str | bytes) -> None:
    error = refused(written(tmp_path, text))
    assert error.key == ""
    assert error.expected.startswith("not TOML: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.toml").expected == "cannot be read: No such file or directory"
    assert refused(tmp_path).expected == "cannot be read: Is a directory"


def test_a_table_says_which_part_it_was() -> None:
    with pytest.raises(ConfigError) as error:
        typed({"name": 1}, SourceTable, "agent.toml, source rapl")
    assert str(error.value) == "agent.toml, source rapl: name: expected `str`, got `int`"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("h", False)],
)
def test_which_hosts_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
