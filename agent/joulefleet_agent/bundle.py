"""The support file of `joulefleet doctor --bundle`: what helps to find a fault, without names, addresses and secrets.

Of a config only what is known to be harmless is kept: names of sources, numbers, yes and no; any other text is only
said to be there. Files that a config names are not read. In all that sources said, names of hosts and people,
addresses, serial numbers and UUIDs become marks, equal ones for equal texts; a salt that is thrown away makes them.
"""

import getpass
import hmac
import os
import platform
import re
import secrets
import socket
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from joulefleet_agent.sources import installed

KEPT = frozenset({"use", "software", "kind", "grade", "sensor_class", "current", "route"})
"""Keys of a config whose texts are words of ours."""
SECRET = re.compile(r"token|secret|pass|key|cred|auth|community|cookie|session|user|login|pin|serial", re.IGNORECASE)
NOBODY = ("root", "nobody", "joulefleet", "localhost")
"""Names that every machine has."""
SHORT = 4
"""A name with fewer characters is looked for as a word of its own: inside others too much would be marked."""

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
MAC = r"(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}"
IP_6 = r"(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{1,4}"
IP_4 = r"(?:\d{1,3}\.){3}\d{1,3}"
PORT = r"(?<![\w.-])(?=[\w.-]*[a-z])[\w.-]+(?=:\d{3,5}(?!\d))"
SERIAL = r"\b(?=(?:[a-z]*\d){4})[a-z0-9]{8,}\b"
IDENTIFYING = re.compile("|".join((UUID, MAC, IP_6, IP_4, PORT, SERIAL)), re.IGNORECASE)
URL = re.compile(r"\b(\w+)://([^\s/\"'?#]+)([^\s\"']*)")
HOME = re.compile(r"(/home/|/Users/)[^/\s\"']+")


class Scrubber:
    """Takes out of texts what tells who and where."""

    def __init__(self, names: Iterable[str], salt: bytes) -> None:
        self._salt = salt
        known = sorted({name for name in names if name}, key=len, reverse=True)
        self._names = re.compile("|".join(map(_found, known)), re.IGNORECASE) if known else None

    def clean(self, value: Any) -> Any:
        """The same with every text cleaned; keys are words of ours."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.clean(one) for key, one in value.items()}
        return [self.clean(one) for one in value] if isinstance(value, list | tuple) else value

    def text(self, text: str) -> str:
        """One text with marks in it."""
        text = URL.sub(lambda found: f"{found[1]}://{self._mark(found[2])}", text)
        text = HOME.sub(lambda found: f"{found[1]}(user)", text)
        text = self._names.sub(lambda found: self._mark(found[0]), text) if self._names else text
        return IDENTIFYING.sub(lambda found: self._mark(found[0]), text)

    def _mark(self, text: str) -> str:
        return "~" + hmac.new(self._salt, text.lower().encode(), "sha256").hexdigest()[:8].translate(TO_LETTERS)


TO_LETTERS = str.maketrans("0123456789", "ghijklmnop")
"""A mark has no digits, so that it is not taken for a serial number."""


def bundle(report: dict[str, Any], config: dict[str, Any] | None) -> bytes:
    """The support file's bytes, JSON: where this runs, what the doctor found, and the config, all redacted."""
    names = [*_own_names(), *(names_in(config) if config else ())]
    scrubber = Scrubber(names, secrets.token_bytes(32))
    told = {
        "about": "written by `joulefleet doctor --bundle`; names, addresses and serial numbers are replaced by marks",
        "machine": {**scrubber.clean(machine()), "capabilities": _capabilities()},
        "doctor": scrubber.clean(msgspec.to_builtins(report)),
        "config": redacted(config) if config is not None else None,
    }
    return msgspec.json.format(msgspec.json.encode(told), indent=2)


def redacted(value: Any, key: str = "") -> Any:
    """A config's table, or one of its values, with only what is known to be harmless."""
    if isinstance(value, dict):
        return {name: redacted(one, f"{key}.{name}") for name, one in value.items()}
    if SECRET.search(key):
        return "(left out)"
    if isinstance(value, list | tuple):
        return [redacted(one, key) for one in value]
    if isinstance(value, str):
        return value if key.rpartition(".")[2] in KEPT else _kind_of(value)
    return value


def names_in(value: Any, key: str = "") -> Iterator[str]:
    """Every text of a config that could tell who or where: none of it may appear in what sources said."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from names_in(one, name)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from names_in(one, key)
    elif isinstance(value, str) and key not in KEPT and not value.startswith(("/sys/", "/proc/", "/dev/")):
        yield value
        yield urlsplit(value).hostname or "" if "://" in value else ""


def write(path: Path, body: bytes) -> None:
    """Write it for its owner's eyes only; a file of this name must not exist. Raises OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(body)


def machine() -> dict[str, Any]:
    """Where this runs: versions, platform, rights."""
    return {
        "joulefleet": version("joulefleet"),
        "packages": dict(_packages()),
        "sources": installed(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "cpus": os.cpu_count(),
        "root": os.geteuid() == 0,
        "hwmon": sorted(_texts("/sys/class/hwmon/*/name")),
        "powercap": sorted(_texts("/sys/class/powercap/*/name")),
        "devices": sorted(str(one) for name in ("nvidia*", "kfd", "ipmi*", "neuron*", "accel*") for one in _dev(name)),
    }


def _packages() -> Iterator[tuple[str, str]]:
    for requirement in requires("joulefleet") or []:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"


def _capabilities() -> str:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "")


def _texts(pattern: str) -> Iterator[str]:
    for path in Path("/").glob(pattern.lstrip("/")):
        try:
            yield path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError as error:
            yield f"({error.strerror})"


def _dev(name: str) -> Iterator[Path]:
    return Path("/dev").glob(name)


def _found(name: str) -> str:
    return re.escape(name) if len(name) >= SHORT else rf"(?<![^\W_]){re.escape(name)}(?![^\W_])"


def _own_names() -> list[str]:
    host = socket.gethostname()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    names = [host, host.partition(".")[0], platform.node(), user, Path.home().name]
    return [one for one in names if one not in NOBODY]


def _kind_of(text: str) -> str:
    if "://" not in text:
        return "(text)" if text else ""
    try:
        parts = urlsplit(text)
        return f"{parts.scheme}://(host){f':{parts.port}' if parts.port else ''}"
    except ValueError:
        return "(text)"
