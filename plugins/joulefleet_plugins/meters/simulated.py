"""A simulated server with a known answer: try everything without hardware, and compare what comes out with the truth.

Theory. Load follows r(t) = mean * (1 + swing * sin(2 pi t / day)), which integrates in closed form. Its integral in
units of the mean is the "work time": a whole number of nanoseconds, computed from the instant alone. Every counter is
a whole-number function of elapsed time and work time, so that it depends on nothing but the instant and the
configuration: it goes on over restarts, two readers agree, and the truth of any interval is a difference. Changing
the configuration changes the past as well: give a changed simulation a new server name.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec

from joulefleet import (
    WHOLE,
    Counts,
    Engine,
    Meter,
    MeterReading,
    Reading,
    Reservation,
    Source,
    SourceGone,
    SourceUnavailable,
    WorkKey,
    WorkReading,
    typed,
)
from joulefleet.grid import HOUR_NS, floor_to
from joulefleet.units import NS_PER_S, mw_ns_to_uj, ns_to_s, s_to_ns, uj_to_j, w_to_mw

TRIED = "simulated"
LIVE = False
"""No machine's: not tried where nobody configured it."""
SERVER = "sim-server"
ENGINE = "sim-engine"
DAY_NS = 24 * HOUR_NS
CHUNK = 60
STREAM_TOKENS_PER_S = 50
"""Speed at which one running request gets its output tokens: gives the requests in flight and their latency."""

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class SimulatedConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The server that is simulated. Its defaults are those of a middling server of eight boards."""

    hardware: str = "SIM-1"
    boards: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    board_idle_w: NotNegative = 75.0
    host_idle_w: NotNegative = 600.0
    model: str = "sim-8b"
    version: str = "1.0"
    output_tokens_per_s: Positive = 10_000.0
    """Mean of the whole server over a day."""
    daily_swing: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """Amplitude of the load around its mean: highest at 6, lowest at 18 hours UTC."""
    prompt_tokens_per_output_token: NotNegative = 4.0
    output_tokens_per_request: Positive = 200.0
    j_per_prompt_token: NotNegative = 0.02
    j_per_output_token: NotNegative = 0.2
    """Energy of the boards above idle; that of the host comes on top."""
    host_overhead: NotNegative = 0.25
    """Energy of the host above its idle, as a part of the boards' above theirs."""
    release_at_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    """From this second since 1970 on the engine is `release_version`; 0 for never."""
    release_version: str = "1.1"
    release_factor: Positive = 1.08
    """Energy above idle from the release on, against before."""
    start_s: Annotated[int, msgspec.Meta(ge=0)] = 1_767_225_600
    """Second since 1970 at which all counters stood at 0; by default the start of 2026."""
    server_refresh_s: NotNegative = 0.0
    """The server's counter moves only each so many seconds; 0 for always."""
    period_s: Positive = 1.0
    from_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    until_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Where given, the source is a recording of this span of seconds since 1970 instead of running by the clock."""


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in an interval."""

    accelerator_j: float
    """At the boundary `accelerator`: all boards."""
    server_j: float
    """At the boundary `server`: the boards included."""
    requests: int
    prompt_tokens: int
    output_tokens: int


class Course(msgspec.Struct, frozen=True):
    """The state of a simulated server at any instant from its start on; before it, that of the start."""

    config: SimulatedConfig

    @property
    def start_ns(self) -> int:
        """When all counters stood at 0."""
        return s_to_ns(self.config.start_s)

    @property
    def dynamic_w(self) -> float:
        """Power of all boards above idle at mean load, before a release."""
        config = self.config
        prompt_j = config.prompt_tokens_per_output_token * config.j_per_prompt_token
        return config.output_tokens_per_s * (prompt_j + config.j_per_output_token)

    @property
    def board_mw(self) -> tuple[int, int]:
        """One board: idle, and above idle at mean load."""
        return w_to_mw(self.config.board_idle_w), w_to_mw(self.dynamic_w / self.config.boards)

    @property
    def host_mw(self) -> tuple[int, int]:
        """The server without its boards: idle, and above idle at mean load."""
        return w_to_mw(self.config.host_idle_w), w_to_mw(self.dynamic_w * self.config.host_overhead)

    def released(self, at_ns: int) -> bool:
        """Whether the engine is the new version."""
        return 0 < s_to_ns(self.config.release_at_s) <= at_ns

    def load(self, at_ns: int) -> float:
        """Load at an instant against its mean."""
        return 1 + self.config.daily_swing * math.sin(_angle(at_ns))

    def work_ns(self, at_ns: int) -> int:
        """Integral of the load from the start: the time in which mean load would have done the same work."""
        now_ns = max(at_ns, self.start_ns)
        swing_ns = self.config.daily_swing * DAY_NS / math.tau
        return now_ns - self.start_ns + round(swing_ns * (math.cos(_angle(self.start_ns)) - math.cos(_angle(now_ns))))

    def dynamic_ns(self, at_ns: int) -> int:
        """The same, weighted with the release's factor from the release on."""
        if not self.released(at_ns):
            return self.work_ns(at_ns)
        before_ns = self.work_ns(s_to_ns(self.config.release_at_s))
        return before_ns + (self.work_ns(at_ns) - before_ns) * round(self.config.release_factor * WHOLE) // WHOLE

    def _uj(self, idle_and_dynamic_mw: tuple[int, int], at_ns: int) -> int:
        idle_mw, dynamic_mw = idle_and_dynamic_mw
        return mw_ns_to_uj(idle_mw * max(at_ns - self.start_ns, 0) + dynamic_mw * self.dynamic_ns(at_ns))

    def board_uj(self, at_ns: int) -> int:
        """Energy counter of one board; all boards are alike."""
        return self._uj(self.board_mw, at_ns)

    def server_uj(self, at_ns: int) -> int:
        """Energy counter of the server: the boards and the rest."""
        return self.config.boards * self.board_uj(at_ns) + self._uj(self.host_mw, at_ns)

    def counts(self, at_ns: int) -> Counts:
        """Cumulative work. Nothing fails and nothing is cached: these zeros are known."""
        config = self.config
        tokens = config.output_tokens_per_s * ns_to_s(self.work_ns(at_ns))
        return Counts(
            requests_ok=math.floor(tokens / config.output_tokens_per_request),
            requests_failed=0,
            requests_aborted=0,
            prompt_tokens=math.floor(tokens * config.prompt_tokens_per_output_token),
            cached_tokens=0,
            output_tokens=math.floor(tokens),
        )

    def running(self, at_ns: int) -> int:
        """Requests in flight: the tokens made in a second over those that one request gets."""
        return max(1, round(self.load(at_ns) * self.config.output_tokens_per_s / STREAM_TOKENS_PER_S))

    def latency_s(self) -> float:
        """End-to-end latency of every request."""
        return self.config.output_tokens_per_request / STREAM_TOKENS_PER_S

    def board_power_mw(self, at_ns: int) -> int:
        """Power of one board at an instant."""
        return self._mw(self.board_mw, at_ns)

    def server_power_mw(self, at_ns: int) -> int:
        """Power of the server at an instant: the boards and the rest."""
        return self.config.boards * self.board_power_mw(at_ns) + self._mw(self.host_mw, at_ns)

    def _mw(self, idle_and_dynamic_mw: tuple[int, int], at_ns: int) -> int:
        idle_mw, dynamic_mw = idle_and_dynamic_mw
        factor = self.config.release_factor if self.released(at_ns) else 1.0
        return idle_mw + round(dynamic_mw * self.load(at_ns) * factor)

    def most_mw(self, idle_and_dynamic_mw: tuple[int, int]) -> int:
        """Power at the top of the day, before or after the release, whichever is more."""
        idle_mw, dynamic_mw = idle_and_dynamic_mw
        return idle_mw + math.ceil(dynamic_mw * (1 + self.config.daily_swing) * max(self.config.release_factor, 1.0))


def _angle(at_ns: int) -> float:
    return math.tau * (at_ns % DAY_NS) / DAY_NS


def truth(config: SimulatedConfig, from_ns: int, to_ns: int) -> Truth:
    """What happened between two instants; nothing did before the start."""
    course = Course(config)
    before, after = course.counts(from_ns), course.counts(to_ns)

    def rise(name: str) -> int:
        return int(getattr(after, name)) - int(getattr(before, name))

    return Truth(
        accelerator_j=uj_to_j(config.boards * (course.board_uj(to_ns) - course.board_uj(from_ns))),
        server_j=uj_to_j(course.server_uj(to_ns) - course.server_uj(from_ns)),
        requests=rise("requests_ok"),
        prompt_tokens=rise("prompt_tokens"),
        output_tokens=rise("output_tokens"),
    )


class SimulatedServer:
    """The simulated server as a source: one meter a board, one of the whole server, one engine on all boards."""

    deadline_ns = NS_PER_S

    def __init__(self, config: SimulatedConfig, now_ns: Callable[[], int]) -> None:
        self.config = config
        self.period_ns = s_to_ns(config.period_s)
        self._course = Course(config)
        self._now_ns = now_ns
        self._refresh_ns = s_to_ns(config.server_refresh_s)
        self._boards = tuple(f"sim-board{number}" for number in range(config.boards))
        boards = tuple(self._board(meter) for meter in self._boards)
        self.declares: tuple[Meter | Engine, ...] = (*boards, self._server(), self._engine())

    def read(self) -> Sequence[Reading]:
        """All counters at the clock's instant. Raises SourceUnavailable before the start."""
        at_ns = self._now_ns()
        if at_ns < self._course.start_ns:
            raise SourceUnavailable("not_started", "the simulation begins later", "set an earlier start_s")
        return [
            *(self._read_board(meter, at_ns) for meter in self._boards),
            self._read_server(at_ns),
            self._work(at_ns),
        ]

    def truth(self, from_ns: int, to_ns: int) -> Truth:
        """What happened between two instants."""
        return truth(self.config, from_ns, to_ns)

    def _read_board(self, meter: str, at_ns: int) -> MeterReading:
        course = self._course
        return MeterReading(
            meter=meter, at_ns=at_ns, counter_uj=course.board_uj(at_ns), power_mw=course.board_power_mw(at_ns)
        )

    def _read_server(self, at_ns: int) -> MeterReading:
        seen_ns = floor_to(at_ns, self._refresh_ns) if self._refresh_ns else at_ns
        counter_uj, power_mw = self._course.server_uj(seen_ns), self._course.server_power_mw(seen_ns)
        return MeterReading(meter=SERVER, at_ns=at_ns, counter_uj=counter_uj, power_mw=power_mw)

    def _work(self, at_ns: int) -> WorkReading:
        key, counts, latency_s = WorkKey(self.config.model), self._course.counts(at_ns), self._course.latency_s()
        # The empty bucket below tells where the full one begins.
        histogram = {f"{latency_s * 0.9:g}": 0, f"{latency_s:g}": counts.requests_ok or 0}
        return WorkReading(
            engine=ENGINE,
            at_ns=at_ns,
            counts={key: counts},
            latency={key: {"e2e": histogram}},
            running=self._course.running(at_ns),
            queued=0,
            version=self.config.release_version if self._course.released(at_ns) else self.config.version,
        )

    def _board(self, meter: str) -> Meter:
        pair_mw = self._course.board_mw
        return Meter(
            id=meter,
            kind="accelerator",
            grade="counter",
            sensor_class="onboard",
            inside=SERVER,
            device=meter,
            hw_model=self.config.hardware,
            resolution_uj=1,
            period_ns=self.period_ns,
            max_power_mw=self._course.most_mw(pair_mw),
            idle_mw=pair_mw[0],
            simulated=True,
        )

    def _server(self) -> Meter:
        course, boards = self._course, self.config.boards
        return Meter(
            id=SERVER,
            kind="server",
            grade="counter",
            sensor_class="platform",
            contains=("accelerator", "module", "cpu_package", "cpu_core", "dram", "psys", "host"),
            hw_model=self.config.hardware,
            resolution_uj=1,
            refresh_ns=self._refresh_ns,
            period_ns=self.period_ns,
            max_power_mw=boards * course.most_mw(course.board_mw) + course.most_mw(course.host_mw),
            current="ac",
            idle_mw=boards * course.board_mw[0] + course.host_mw[0],
            simulated=True,
        )

    def _engine(self) -> Engine:
        return Engine(
            id=ENGINE,
            software="simulated",
            version=self.config.version,
            devices=tuple(Reservation(meter) for meter in self._boards),
            hardware=self.config.hardware,
            period_ns=self.period_ns,
            simulated=True,
        )


class SimulatedRecording:
    """A span of the simulated server's time, as fast as it is read."""

    deadline_ns = NS_PER_S

    def __init__(self, config: SimulatedConfig) -> None:
        self._server = SimulatedServer(config, lambda: self._at_ns)
        self.declares = self._server.declares
        self.period_ns = self._server.period_ns
        self._at_ns = s_to_ns(config.from_s)
        self._until_ns = s_to_ns(config.until_s)

    def read(self) -> Sequence[Reading]:
        """The next instants, each with its own time. Raises SourceGone at the end."""
        if self._at_ns > self._until_ns:
            raise SourceGone("the simulated span is over")
        readings: list[Reading] = []
        for _ in range(CHUNK):
            if self._at_ns <= self._until_ns:
                readings += self._server.read()
                self._at_ns += self.period_ns
        return readings


def open(table: dict[str, Any]) -> Source:
    """A simulated server that runs by the host's clock, or a span of it. Raises ConfigError."""
    config = typed(table, SimulatedConfig, "source simulated")
    return SimulatedRecording(config) if config.until_s else SimulatedServer(config, time.time_ns)
