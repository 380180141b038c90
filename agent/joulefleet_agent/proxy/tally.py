"""What the proxy counts: requests, tokens and latencies of each model and tenant, in bounds.

Only a request that was served makes a name: what others ask for, with keys of no one and models that do not exist,
takes no place among those that count.
"""

from bisect import bisect_left
from collections import Counter
from typing import Literal, Protocol

import msgspec

from joulefleet.latency import GRID
from joulefleet_agent.engine_cut import MAX_KEYS, OVERFLOW
from joulefleet_agent.proxy.told import Tokens

MAX_NAME_CHARACTERS = 200
"""Of a model's or a tenant's name, as many as the agent keeps of it."""
EDGES_S = GRID[:49:2]
"""Of all histograms: every second edge of the fixed grid up to 1,000 s."""
Outcome = Literal["ok", "failed", "aborted"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "failed", "aborted")
Key = tuple[str, str]
"""Model and tenant."""
UNKNOWN: Key = ("", "")
BEYOND: Key = (OVERFLOW.model, OVERFLOW.tenant)


class Spread:
    """Latencies by bucket."""

    def __init__(self) -> None:
        self.counts = [0] * (len(EDGES_S) + 1)
        self.sum_s = 0.0

    def see(self, latency_s: float, times: int = 1) -> None:
        """One latency more."""
        # An edge belongs to the bucket that ends there, also where the last digit of a difference is off.
        self.counts[bisect_left(EDGES_S, latency_s * (1 - 1e-9))] += times
        self.sum_s += latency_s * times

    def add(self, other: "Spread") -> None:
        """All of another one."""
        self.counts = [own + its for own, its in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s

    @property
    def is_empty(self) -> bool:
        """Whether it has seen nothing."""
        return not any(self.counts)


class Ended(msgspec.Struct, kw_only=True):
    """One request that has ended."""

    outcome: Outcome
    served: bool
    """Whether the server began to answer it well."""
    tokens: Tokens = Tokens()
    estimated: bool = False
    """Whether its output tokens are an estimate."""
    has_output: bool = True
    e2e_s: float
    ttft_s: float | None = None
    """To the first part of an answer in parts."""
    between: Spread | None = None
    """Seconds between its parts."""


class Line:
    """The sums of one model and tenant."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        """By outcome."""
        self.tokens: Counter[str] = Counter()
        """`prompt`, `cached`, `output`, and `estimated`, a part of the output; only what was ever told."""
        self.untold: Counter[str] = Counter()
        """Served requests of which `prompt` or `output` tokens are not known."""
        self.latency = {kind: Spread() for kind in ("ttft", "itl", "e2e")}

    def add(self, ended: Ended) -> None:
        """One request more."""
        self.requests[ended.outcome] += 1
        for name, count in ended.tokens._asdict().items():
            if count is not None:
                self.tokens[name] += count
        if ended.estimated:
            self.tokens["estimated"] += ended.tokens.output or 0
        if ended.served:
            self.untold["prompt"] += ended.tokens.prompt is None
            self.untold["output"] += ended.has_output and ended.tokens.output is None
        if ended.outcome == "ok":
            self.latency["e2e"].see(ended.e2e_s)
        if ended.ttft_s is not None:
            self.latency["ttft"].see(ended.ttft_s)
        if ended.between is not None:
            self.latency["itl"].add(ended.between)


class Named(Protocol):
    """A request in hand, whose model may be told later than it came."""

    @property
    def model(self) -> str: ...
    @property
    def tenant(self) -> str: ...


class Tally:
    """All that was counted since the proxy began."""

    def __init__(self) -> None:
        self.lines: dict[Key, Line] = {}
        self.alone = False
        """Whether nobody else counts this work: the server behind shows no metrics of its own."""
        self.running: set[Named] = set()
        """Requests in hand now."""
        self.refused: Counter[str] = Counter()
        """Requests that the proxy did not pass on, by reason."""
        self.upstream: Counter[str] = Counter()
        """Requests that the server did not answer, or not to the end, by reason."""

    def end(self, model: str, tenant: str, ended: Ended) -> None:
        """One request has ended."""
        key = self._key(_told(model), _told(tenant), ended.served)
        self.lines.setdefault(key, Line()).add(ended)

    def running_by_key(self) -> Counter[Key]:
        """Requests in hand of each model and tenant; those that are not known yet stand under empty names."""
        found = Counter(dict.fromkeys(self.lines, 0))
        for one in self.running:
            key = (_told(one.model), _told(one.tenant))
            found[key if key in self.lines else UNKNOWN] += 1
        return found

    def _key(self, model: str, tenant: str, served: bool) -> Key:
        if not served:
            model = model if any(model == known for known, _ in self.lines) else ""
            tenant = tenant if any(tenant == known for _, known in self.lines) else ""
        is_full = len(self.lines) >= MAX_KEYS - (BEYOND not in self.lines)
        return BEYOND if (model, tenant) not in self.lines and is_full else (model, tenant)


def _told(name: str) -> str:
    """The name as a page can tell it: cut, and without what is no text. One name that cannot be written, and nothing
    of all the others would be read any more."""
    return name[:MAX_NAME_CHARACTERS].encode(errors="replace").decode()
