"""What the conformance suite of meters asks of a stand-in for an interface: that it can be driven, broken and mended.

A module `rigs.<source>` has two functions: `rig(folder)`, a context manager that gives a Rig, and `absent(folder)`, a
table with which the source's `open` finds nothing on this host and says so by SourceUnavailable.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from joulefleet.source import Source

FAULTS = ("fails", "gone", "hangs", "rubbish", "empty", "negative", "nan", "huge", "stuck", "zero")
"""Names of faults; a rig has those that its interface can have.

fails      each read is refused: EIO, 503, an error of the library
gone       the device or its file is not there any more
hangs      no answer ever; the source's own deadline has to end the read
rubbish    text, bytes or types that are no number
empty      an answer without the value
negative, nan, huge
           numbers that no power or energy can be (huge: far above the rated maximum)
stuck      the value stays as it is while power is drawn
zero       0 where this interface says 0 for "I do not know"
"""


class Rig(Protocol):
    """One interface with its devices; time passes only in `run`."""

    faults: Mapping[str, Callable[[], None]]
    """Breaks the interface until `mend`, by name of FAULTS."""

    def open(self) -> Source:
        """The source, opened on this interface."""
        ...

    def run(self, seconds: float, power_w: float) -> None:
        """Let every device draw this power for so long: counters rise, gauges tell it, the clock of the fake goes on.

        Where devices contain one another, each shows this power: only single meters are judged.
        """
        ...

    def mend(self) -> None:
        """End the fault; counters have gone on meanwhile."""
        ...
