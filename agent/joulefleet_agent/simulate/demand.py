"""The work that one server of a kind is asked for over time, from a daily curve or from real arrivals.

Theory. Time falls into slots of equal length, which repeat. Within a slot, work runs straight, so that the work up to
any instant is a sum and a proportion, in integers: it depends on nothing but the instant, and any two readers agree.
"""

import csv
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from joulefleet.config import ConfigError
from joulefleet.counter import part_of
from joulefleet.grid import HOUR_NS
from joulefleet.units import NS_PER_S, j_to_uj, ns_to_s, uj_over_ns_to_mw, us_to_ns
from joulefleet_agent.simulate.catalogue import Deployment, Hardware, Model

DAILY_SLOT_NS = 600 * NS_PER_S
ARRIVAL_SLOT_NS = 60 * NS_PER_S
DAY_NS = 24 * HOUR_NS
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""Columns of the public traces of requests of Azure's LLM services."""
_REMEMBERED = 4_096
_FRACTION_DIGITS = 6
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Amounts(NamedTuple):
    """Work, and the energy of all boards above idle that it takes at cost 1."""

    requests: int
    prompt_tokens: int
    output_tokens: int
    dynamic_uj: int


class Load(NamedTuple):
    """Work of one slot, not yet in whole numbers."""

    requests: float
    prompt_tokens: float
    output_tokens: float


class Demand:
    """Repeating slots of work from an instant on. Equal instants are remembered: a kind's servers share a demand."""

    def __init__(self, origin_ns: int, slot_ns: int, slots: Sequence[Amounts]) -> None:
        self._origin_ns = origin_ns
        self._slots = slots
        self.slot_ns = slot_ns
        zero = Amounts(0, 0, 0, 0)
        self._before = list(accumulate(slots, _added, initial=zero))
        self.at = lru_cache(_REMEMBERED)(self._at)
        """Work from the origin up to an instant, which must not be earlier."""

    def slot_at(self, at_ns: int) -> Amounts:
        """Work of the slot that contains this instant."""
        return self._slots[(at_ns - self._origin_ns) // self.slot_ns % len(self._slots)]

    @property
    def peak_mw(self) -> int:
        """Mean power above idle of all boards in the slot where it is highest."""
        return uj_over_ns_to_mw(max(one.dynamic_uj for one in self._slots), self.slot_ns)

    def _at(self, at_ns: int) -> Amounts:
        place, rest_ns = divmod(at_ns - self._origin_ns, self.slot_ns)
        rounds, place = divmod(place, len(self._slots))
        whole, before, now = self._before[-1], self._before[place], self._slots[place]
        return Amounts(
            *(
                rounds * all_ + past + part_of(slot, 0, self.slot_ns, rest_ns)
                for all_, past, slot in zip(whole, before, now, strict=True)
            )
        )


def daily(deployment: Deployment, hardware: Hardware, model: Model, begin_ns: int) -> Demand:
    """A cosine over each day of UTC."""
    number = DAY_NS // DAILY_SLOT_NS
    course = [1 + deployment.swing * math.cos(_angle((k + 0.5) / number, deployment.peak_h)) for k in range(number)]
    loads = [Load(part, part * model.prompt_tokens, part * model.output_tokens) for part in course]
    return _demand(begin_ns - begin_ns % DAY_NS, DAILY_SLOT_NS, loads, deployment, hardware, model)


def from_arrivals(
    loads: Sequence[Load], deployment: Deployment, hardware: Hardware, model: Model, begin_ns: int
) -> Demand:
    """Recorded minutes again and again, scaled to the deployment's mean utilisation."""
    return _demand(begin_ns, ARRIVAL_SLOT_NS, loads, deployment, hardware, model)


def read_arrivals(path: Path) -> list[Load]:
    """Requests and tokens of each minute of a recorded trace. Raises ConfigError naming the line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            requests = [_request(row, f"{path} line {number}") for number, row in enumerate(csv.DictReader(lines), 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(path), "", f"cannot be read: {error}") from error
    if not requests:
        raise ConfigError(str(path), "", "no request in it")
    first_ns = min(at_ns for at_ns, _, _ in requests)
    minutes = [[0.0, 0.0, 0.0] for _ in range((max(one[0] for one in requests) - first_ns) // ARRIVAL_SLOT_NS + 1)]
    for at_ns, prompt, output in requests:
        minute = minutes[(at_ns - first_ns) // ARRIVAL_SLOT_NS]
        minute[0] += 1
        minute[1] += prompt
        minute[2] += output
    return [Load(*minute) for minute in minutes]


def _request(row: dict[str, str], where: str) -> tuple[int, int, int]:
    try:
        stamp, prompt, output = (row[name] for name in COLUMNS)
        whole, _, fraction = stamp.partition(".")
        # Finer fractions than a microsecond stand in these files, and Python does not read them.
        at = datetime.fromisoformat(f"{whole}.{fraction[:_FRACTION_DIGITS]:0<6}+00:00")
        tokens = int(prompt), int(output)
        if min(tokens) < 0:
            raise ValueError(f"negative tokens: {prompt}, {output}")
        return us_to_ns((at - _EPOCH) // timedelta(microseconds=1)), *tokens
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            where, "", f"expected the columns {', '.join(COLUMNS)} with a time and numbers: {error}"
        ) from error


def _demand(  # noqa: PLR0913, PLR0917 # what a demand follows from
    origin_ns: int, slot_ns: int, loads: Sequence[Load], deployment: Deployment, hardware: Hardware, model: Model
) -> Demand:
    """Slots of whole numbers, scaled so that the mean power of the boards is what the deployment says."""
    wanted_w = deployment.utilisation * hardware.boards * (hardware.board_max_w - hardware.board_idle_w)
    unscaled_j = sum(_joules(load.prompt_tokens, load.output_tokens, hardware, model) for load in loads)
    if not unscaled_j:
        raise ConfigError("demand", deployment.model, "its requests take no energy: give its tokens some")
    scale = wanted_w * ns_to_s(slot_ns) * len(loads) / unscaled_j
    slots = [Load(*(part * scale for part in load)) for load in loads]
    return Demand(origin_ns, slot_ns, [_whole(slot, hardware, model) for slot in slots])


def _whole(load: Load, hardware: Hardware, model: Model) -> Amounts:
    prompt, output = round(load.prompt_tokens), round(load.output_tokens)
    return Amounts(round(load.requests), prompt, output, j_to_uj(_joules(prompt, output, hardware, model)))


def _joules(prompt_tokens: float, output_tokens: float, hardware: Hardware, model: Model) -> float:
    each = prompt_tokens * model.j_per_prompt_token + output_tokens * model.j_per_output_token
    return each * hardware.cost


def _angle(part_of_day: float, peak_h: float) -> float:
    return math.tau * (part_of_day - peak_h / 24)


def _added(one: Amounts, other: Amounts) -> Amounts:
    return Amounts(*(a + b for a, b in zip(one, other, strict=True)))
