"""Loads what is known of a chip that has no meter of its own: a profile that comes with us, or a user's own file."""

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from joulefleet import ConfigError, Kind
from joulefleet.config import load

FOLDER = files("joulefleet_plugins") / "profiles"


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One product: its rated power, where that is from, and by which route its energy is measured."""

    name: str
    hw_model: str
    """As figures name it; a route that tells it itself wins."""
    basis: str
    """Where rated power and route are from."""
    confidence: Literal["high", "medium", "low"]
    """How sure the rated power is."""
    kind: Kind = "accelerator"
    max_power_w: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Rated maximum of one card; to be said in the agent's config where it is not known here."""
    idle_w: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Idle power of one card; 0 where it is not known."""
    cards: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Cards of one server, where the product is a server."""
    route: dict[str, Any] = {}
    """A source by its name, `use`, and that source's own keys; none where only the server's input tells."""


def shipped() -> list[str]:
    """Names of the profiles that come with us."""
    return sorted(one.name.removesuffix(".toml") for one in FOLDER.iterdir() if one.name.endswith(".toml"))


def load_profile(name: str, where: str) -> Profile:
    """The profile of this name, or in the file at this path. Raises ConfigError."""
    if "/" in name or name.endswith(".toml"):
        return load(Path(name), Profile)
    if name not in shipped():
        expected = f"no profile is named {name!r}; there are {', '.join(shipped())}, or write the path of a file"
        raise ConfigError(where, "profile", expected)
    with_us = FOLDER / f"{name}.toml"
    return load(Path(str(with_us)), Profile)


def installed() -> list[str]:
    """Names of the profiles of accelerators that come with us, whose tool is on this machine."""
    return [name for name in shipped() if _has_tool(load_profile(name, ""))]


def _has_tool(profile: Profile) -> bool:
    command = profile.route.get("command", ())
    return profile.kind == "accelerator" and bool(command) and shutil.which(command[0]) is not None


def label(name: str) -> str:
    """A profile's name as part of an id: `groq-lpu`, also of a path to such a file."""
    return Path(name).name.removesuffix(".toml")
