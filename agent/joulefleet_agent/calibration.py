"""The file of gains that `joulefleet calibrate` writes and an agent's config names, and where the agent applies them.

The file keeps every calibration there was; of one meter the last holds. An entry whose version does not belong to its
figures was changed by hand, and is refused.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from joulefleet.config import ConfigError, load
from joulefleet.describe import Engine, Meter
from joulefleet.gain import Gain, Scaler
from joulefleet.reading import Reading
from joulefleet.source import OpenSource, Source
from joulefleet_agent.config import AgentConfig, sources_of
from joulefleet_agent.sampler import Configured
from joulefleet_agent.sources import configured, on_this_machine, unasked


class GainFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every calibration that was written, the oldest first."""

    gain: tuple[Gain, ...] = ()


def sources_in(config: AgentConfig, where: str) -> list[Configured]:
    """The sources of a config, or all that this machine has where it names none; calibrated. Raises ConfigError."""
    asked = sources_of(config, where)
    sources = configured(asked, where) if asked else unasked(configured(on_this_machine(), where))
    return with_gains(sources, gains_of(config, where))


def gains_of(config: AgentConfig, where: str) -> dict[str, Gain]:
    """The gains that hold, by meter; none where the config names no file. A path starts at the config's own folder.

    Raises ConfigError.
    """
    return read_gains(Path(where).parent / config.calibration) if config.calibration else {}


def read_gains(path: Path) -> dict[str, Gain]:
    """The gains of a file that hold, by meter. Raises ConfigError."""
    gains = load(path, GainFile).gain
    for k, one in enumerate(gains):
        if one.version != version_of(one):
            mend = f"it belongs to other figures: calibrate {one.meter!r} again instead of changing them by hand"
            raise ConfigError(str(path), f"gain[{k}].version", mend)
    return {one.meter: one for one in gains}


def version_of(gain: Gain) -> str:
    """Twelve hexadecimal digits that follow from all figures of a gain."""
    body = msgspec.json.encode(msgspec.structs.replace(gain, version=""), order="deterministic")
    return hashlib.sha256(body).hexdigest()[:12]


def add_gain(path: Path, gain: Gain) -> None:
    """Write one more calibration behind those that are there. Raises ConfigError, OSError."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if before:
        read_gains(path)
    place = path.with_name(f".{path.name}.{os.getpid()}")
    with place.open("w", encoding="utf-8") as file:
        file.write(before + ("\n" if before else "") + toml_of(gain))
        file.flush()
        os.fsync(file.fileno())
    place.replace(path)


def toml_of(gain: Gain) -> str:
    """One entry of the file."""
    # A TOML string is that of JSON, save that TOML takes no bare DEL.
    lines = [f"{name} = {_quoted(value)}" for name, value in msgspec.structs.asdict(gain).items()]
    return "\n".join(["[[gain]]", *lines, ""])


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def with_gains(sources: Sequence[Configured], gains: Mapping[str, Gain]) -> list[Configured]:
    """The sources, each opened as a calibrated one. The one place where gains come in."""
    if not gains:
        return list(sources)
    return [Configured(one.name, _calibrating(one.opener, gains), one.table) for one in sources]


def _calibrating(opener: OpenSource, gains: Mapping[str, Gain]) -> OpenSource:
    return lambda table: CalibratedSource(opener(table), gains)


class CalibratedSource:
    """A source whose meters are read in the scale of their calibration."""

    def __init__(self, source: Source, gains: Mapping[str, Gain]) -> None:
        self._source = source
        self._scaler = Scaler(gains)
        self._before: tuple[Meter | Engine, ...] = source.declares
        self.declares = self._scaler.declared(source.declares)
        self.period_ns = source.period_ns
        self.deadline_ns = source.deadline_ns

    def read(self) -> Sequence[Reading]:
        """What the source says, scaled. Raises what the source raises."""
        readings = self._source.read()
        if self._source.declares != self._before:
            self._before = self._source.declares
            self.declares = self._scaler.declared(self._before)
        return self._scaler.said(readings)
