"""The fixed UTC grid on which every server cuts its time into windows."""

from datetime import UTC, datetime, timedelta

from joulefleet.units import NS_PER_S, us_to_ns

HOUR_NS = 3_600 * NS_PER_S
DEFAULT_STEP_NS = 60 * NS_PER_S
TRACE_STEP_NS = 10 * NS_PER_S
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_step(step_ns: int) -> int:
    """The step itself if windows of it fill an hour exactly.

    Raises ValueError otherwise, or where the step is no whole number of seconds.
    """
    if step_ns <= 0 or step_ns % NS_PER_S or HOUR_NS % step_ns:
        raise ValueError(f"a window step of {step_ns / NS_PER_S:g} s does not divide an hour into whole seconds")
    return step_ns


def floor_to(at_ns: int, step_ns: int) -> int:
    """The start of the window that contains this instant."""
    return at_ns - at_ns % step_ns


def rfc3339(at_ns: int) -> str:
    """An instant in UTC, to the second."""
    return datetime.fromtimestamp(at_ns // NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_rfc3339(text: str) -> int:
    """Nanoseconds since 1970 of an instant with its offset, to the microsecond. Raises ValueError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ValueError(f"'{text}' is no time: write it as 2026-01-31T12:00:00Z")
    return us_to_ns((at - _EPOCH) // timedelta(microseconds=1))
