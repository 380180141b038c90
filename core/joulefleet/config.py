"""Configuration: TOML into typed structs, where an unknown key or a wrong type is refused by name."""

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_FIELD = re.compile(r"^Object (?:contains unknown|missing required) field `(.*)`$")


class ConfigError(Exception):
    """A configuration that cannot be used: which file, which key, what was expected."""

    def __init__(self, where: str, key: str, expected: str) -> None:
        self.where = where
        """The file, or the part of it."""
        self.key = key
        """Path of the key, such as `sources[0].period_s`; empty for the whole file."""
        self.expected = expected
        super().__init__(where, key, expected)

    def __str__(self) -> str:
        return f"{self.where}: {self.key}: {self.expected}" if self.key else f"{self.where}: {self.expected}"


def load(path: Path, form: type[T]) -> T:
    """Read a TOML file into this struct. Raises ConfigError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), "", f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "", f"not TOML: {error}") from error
    return typed(table, form, str(path))


def typed(table: dict[str, Any], form: type[T], where: str) -> T:
    """A table as this struct, which must be declared with `forbid_unknown_fields`. Raises ConfigError."""
    try:
        return msgspec.convert(table, form)
    except msgspec.ValidationError as error:
        sentence, _, path = str(error).partition(" - at `$")
        # An unknown or missing key is told by its name, its table by the path.
        field = _FIELD.search(sentence)
        key = path.rstrip("`") + (f".{field[1]}" if field else "")
        raise ConfigError(where, key.lstrip("."), sentence[:1].lower() + sentence[1:]) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at this host, a name or an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
