"""What an answer cost in energy, as far as it is known by then: the collector's newest figure times its tokens.

The figure is of the last hour, of all answers of that model: what this one really cost is told by reports, later. So
each is marked preliminary and bears its boundary.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from aiohttp import ClientError, ClientResponseError, ClientSession, ClientTimeout

from joulefleet.units import s_to_ns
from joulefleet_agent.proxy.told import Tokens

LOG = logging.getLogger(__name__)
BOUNDARIES = ("server", "compute", "accelerator")
"""The widest that has a figure is taken."""
REFRESH_S = 60.0
STALE_NS = s_to_ns(600)
"""A figure that was asked for longer ago is none any more."""
TIMEOUT = ClientTimeout(total=10.0)


class Figure(NamedTuple):
    """Joules a token of one model."""

    boundary: str
    per_output_j: float | None
    per_total_j: float | None
    """By token computed, prompt or output: for answers that have no output tokens."""


class Estimate(NamedTuple):
    """The energy of one answer."""

    energy_j: float
    boundary: str

    @property
    def header(self) -> str:
        """As the header of a whole answer tells it."""
        return f"{self.energy_j:.4g}; preliminary; boundary={self.boundary}"

    def comment(self, model: str) -> bytes:
        """As a comment in a stream of events, which readers of events leave out."""
        named = json.dumps(model)
        said = f": joulefleet energy_j={self.energy_j:.4g} preliminary boundary={self.boundary} model={named}\n\n"
        return said.encode()


class _Row(msgspec.Struct):
    boundary: str
    simulated: bool = False
    model: str = ""
    joules_per_output_token: float | None = None
    joules_per_total_token: float | None = None


class _Answer(msgspec.Struct):
    rows: list[_Row]


def figures_in(answer: bytes) -> dict[str, Figure]:
    """The figures of each model in an answer of `GET /v1/usage`. Raises msgspec.MsgspecError where it is none.

    Simulated joules are of no real answer.
    """
    found: dict[str, Figure] = {}
    rows = [row for row in msgspec.json.decode(answer, type=_Answer).rows if row.boundary in BOUNDARIES]
    for row in sorted(rows, key=lambda row: BOUNDARIES.index(row.boundary)):
        figure = Figure(row.boundary, row.joules_per_output_token, row.joules_per_total_token)
        if not row.simulated and (figure.per_output_j, figure.per_total_j) != (None, None):
            found.setdefault(row.model, figure)
    return found


def estimate(figure: Figure | None, tokens: Tokens) -> Estimate | None:
    """The energy of an answer of so many tokens; None where it cannot be told."""
    if figure is None:
        return None
    if tokens.output:
        return None if figure.per_output_j is None else Estimate(figure.per_output_j * tokens.output, figure.boundary)
    if tokens.prompt is None or figure.per_total_j is None:
        return None
    return Estimate(figure.per_total_j * (tokens.prompt - (tokens.cached or 0)), figure.boundary)


class Energy:
    """The newest figures of a collector."""

    def __init__(self, collector: str, server: str, token: str, now_ns: Callable[[], int]) -> None:
        """Figures are of one server, or of all where none is named. `token` is a reader's, or empty."""
        self._url = f"{collector.rstrip('/')}/v1/usage"
        self._query = {"since": "-1h", "by": "model", **({"server": server} if server else {})}
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._now_ns = now_ns
        self._figures: dict[str, Figure] = {}
        self._asked_ns = now_ns()
        self._said = ""

    def of(self, model: str, tokens: Tokens) -> Estimate | None:
        """The energy of an answer; None where nothing new enough is known."""
        if self._now_ns() - self._asked_ns > STALE_NS:
            return None
        return estimate(self._figures.get(model), tokens)

    async def refresh(self, session: ClientSession) -> None:
        """Ask once. A collector that does not answer is told once, and asked again later."""
        trouble = ""
        try:
            async with session.get(
                self._url, params=self._query, headers=self._headers, timeout=TIMEOUT, allow_redirects=False
            ) as response:
                response.raise_for_status()
                self._figures, self._asked_ns = figures_in(await response.read()), self._now_ns()
        except ClientResponseError as error:
            trouble = f"it answers with status {error.status}"
        except (ClientError, TimeoutError, OSError) as error:
            trouble = str(error) or type(error).__name__
        except msgspec.MsgspecError:
            trouble = "its answer is none of a collector"
        if trouble != self._said:
            self._said = trouble
            LOG.info("energy_from %s: %s", self._url, trouble or "answers")

    async def keep(self, session: ClientSession) -> None:
        """Ask again and again, for ever."""
        while True:
            await self.refresh(session)
            await asyncio.sleep(REFRESH_S)
