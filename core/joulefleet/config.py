"""Configuration: TOML into typed structs, where an unknown key or a wrong type is refused by name."""

import ipaddress
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")
_FIELD = re.compile(r"^Object (?:contains unknown|missing required) field `(.*)`$")
_NO_CHOICE = re.compile(r"^Invalid enum value (.*)$")
_STEP = re.compile(r"\.(\w+)|\[")


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
        if (wrong := _NO_CHOICE.search(sentence)) and (choices := _choices(form, key)):
            sentence = f"{wrong[1]} is not one of {', '.join(choices)}"
        raise ConfigError(where, key.lstrip("."), sentence[:1].lower() + sentence[1:]) from error


def _choices(form: type, key: str) -> list[str]:
    """The values that may stand at this key."""
    found: list[inspect.Type] = [inspect.type_info(form)]
    for name in _STEP.findall(key):
        found = [inner for one in found for inner in _inside(one, name)]
    literals = [one for several in found for one in _either(several) if isinstance(one, inspect.LiteralType)]
    return sorted(str(value) for literal in literals for value in literal.values)


def _either(one: inspect.Type) -> tuple[inspect.Type, ...]:
    return one.types if isinstance(one, inspect.UnionType) else (one,)


def _inside(several: inspect.Type, name: str) -> Iterator[inspect.Type]:
    """What a struct has in the field of this name; what a list or a dict has, where none is named."""
    for one in _either(several):
        if isinstance(one, inspect.StructType):
            yield from (field.type for field in one.fields if field.encode_name == name)
        elif isinstance(one, inspect.VarTupleType | inspect.ListType):
            yield one.item_type
        elif isinstance(one, inspect.DictType):
            yield one.value_type


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at this host, a name or an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
