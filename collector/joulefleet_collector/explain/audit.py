"""Whether the windows that are kept make the same sums as those that the report was made of."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from joulefleet.grid import HOUR_NS, rfc3339
from joulefleet_collector.explain.figure import Figure
from joulefleet_collector.explain.scope import add

RELATIVE = 1e-9
"""Up to which sums are the same: they were added up in another order."""
SHOWN = ("window_s", "paired_s", "active_j", "idle_j")

ByHour = Mapping[int, Mapping[str, float]]


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One field: from the windows, from the sums of the report, and the difference; None is unknown."""

    field: str
    windows: float | None
    sums: float | None
    residual: float


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Hours in a row, as far as the question goes into them."""

    since: str
    until: str


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the comparison."""

    row_residual_j: float
    """The row's energy less that of the hours it was made of: more than rounding where the store changed meanwhile."""

    agrees: bool
    """Whether every hour of which windows are kept has the same sums from them."""
    fields: list[Pair]
    """Over the hours of which all windows are kept."""
    sums_only: list[Span]
    """Hours of which not all windows are kept any more: their part of the figure rests on sums alone."""
    windows_only: list[Span]
    """Hours of which there are more windows than sums: some came while this was made."""
    differ: list[Span]
    """Hours with as many windows whose sums are others: accounted under another policy or version."""


def audit(windows: ByHour, sums: ByHour, figure: Figure, row_residual_j: float = 0.0) -> Audit:
    """Compare hour by hour; the declared seconds of engines tell whether all windows of an hour are there."""
    verdicts = {hour: _verdict(windows.get(hour, {}), sums.get(hour, {})) for hour in {*windows, *sums}}
    whole = [hour for hour, verdict in verdicts.items() if verdict in ("same", "differ")]
    own, told = summed(windows[hour] for hour in whole), summed(sums[hour] for hour in whole)
    return Audit(
        row_residual_j=row_residual_j,
        agrees="differ" not in verdicts.values(),
        fields=[_pair(name, own, told) for name in dict.fromkeys((*SHOWN, *figure.fields))],
        sums_only=_spans(verdicts, "sums_only"),
        windows_only=_spans(verdicts, "windows_only"),
        differ=_spans(verdicts, "differ"),
    )


def summed(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """These added up; unknown plus known is known."""
    sums: dict[str, float] = {}
    for one in several:
        add(sums, one)
    return sums


def _verdict(own: Mapping[str, float], told: Mapping[str, float]) -> str:
    own_s, told_s = own.get("window_s", 0.0), told.get("window_s", 0.0)
    if not _same(own_s, told_s):
        return "sums_only" if own_s < told_s else "windows_only"
    # A field that one side does not know yet or any more is no difference of the figure.
    return "same" if all(_same(own[name], told[name]) for name in own.keys() & told.keys()) else "differ"


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= RELATIVE * max(abs(one), abs(other), 1.0)


def _pair(name: str, own: Mapping[str, float], told: Mapping[str, float]) -> Pair:
    return Pair(
        field=name, windows=own.get(name), sums=told.get(name), residual=own.get(name, 0.0) - told.get(name, 0.0)
    )


def _spans(verdicts: Mapping[int, str], verdict: str) -> list[Span]:
    hours = sorted(hour for hour, its in verdicts.items() if its == verdict)
    return [Span(since=rfc3339(first), until=rfc3339(last + HOUR_NS)) for first, last in _runs(hours)]


def _runs(hours: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of hours that follow one another."""
    runs: list[tuple[int, int]] = []
    for hour in hours:
        if runs and hour == runs[-1][1] + HOUR_NS:
            runs[-1] = (runs[-1][0], hour)
        else:
            runs.append((hour, hour))
    return runs
