"""The public face: what an author of a source may rely on."""

import joulefleet


def test_the_public_names_are_these() -> None:
    assert joulefleet.__all__ == [
        "SOMEWHERE",
        "WHOLE",
        "ConfigError",
        "Counts",
        "Engine",
        "Failure",
        "Histogram",
        "Kind",
        "Meter",
        "MeterReading",
        "ProcessMustEnd",
        "Reading",
        "Reservation",
        "Slice",
        "Source",
        "SourceGone",
        "SourceUnavailable",
        "WorkKey",
        "WorkReading",
        "typed",
    ]
    assert all(hasattr(joulefleet, name) for name in joulefleet.__all__)
