"""Which ports of this machine are asked for a metrics page, and when again: none is asked twice that has no page.

A port is known by the sockets that listen on it: while one of them stays, it is the same server. What each told is
remembered for as long as it listens, and no longer, so that the memory is bounded by the sockets of the machine.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec

from joulefleet.sockets import Listening

PRIVILEGED = 1024
LONGEST_WAIT_LOOKS = 64
"""A server that may show a page later is asked after 1, 2, 4, ... looks, and at last once in so many."""
DANGEROUS: Mapping[int, str] = {
    **dict.fromkeys((2375, 2376), "Docker's own interface"),
    **dict.fromkeys((2379, 2380), "etcd"),
    2049: "NFS",
    3306: "MySQL",
    3389: "remote desktop",
    5432: "PostgreSQL",
    **dict.fromkeys((5555, 6443, 10250), "adb, Kubernetes' API, kubelet"),
    **dict.fromkeys((5671, 5672), "AMQP"),
    **dict.fromkeys(range(5900, 5910), "VNC"),
    **dict.fromkeys(range(6000, 6010), "X11"),
    **dict.fromkeys((6379, 6380), "Redis, which logs HTTP as an attack"),
    8765: "JouleFleet's own collector",
    **dict.fromkeys((9042, 7000, 7001), "Cassandra"),
    9092: "Kafka",
    9100: "printers, which would print it",
    11211: "memcached",
    27017: "MongoDB",
    29500: "PyTorch's rendezvous, on which a training run hangs",
}
"""Ports that are not asked unless they are named, and what is usually there: servers that log, block or act on what is
not theirs. None is the default port of an inference server."""

Outcome = Literal["page", "later", "never"]


class Port(NamedTuple):
    """One port that listens now."""

    number: int
    host: str
    inodes: frozenset[str]
    """Of all sockets that listen on it: several processes may share it."""


class Known(msgspec.Struct):
    """What is remembered of a port."""

    inodes: frozenset[str]
    absent_s: float | None
    """When it was last seen not to listen; None where it did when the book was opened."""
    due: int
    """The look at which it is asked next; -1 for never."""
    wait: int = 1


def ports_of(sockets: Iterable[Listening]) -> dict[int, Port]:
    """The ports of these sockets, by number."""
    found: dict[int, Port] = {}
    for one in sockets:
        known = found.get(one.port, Port(one.port, one.host, frozenset()))
        # Where both answer, the address that configs have is taken.
        found[one.port] = Port(one.port, min(known.host, one.host), known.inodes | {one.inode})
    return found


class PortBook:
    """What each port told, from look to look."""

    def __init__(self, handed_out: range, skip: Iterable[int] = (), only: Iterable[int] = ()) -> None:
        """`handed_out` are the ports that the system gives to who asks for any."""
        self._handed_out = handed_out
        self._skip, self._only = frozenset(skip), frozenset(only)
        self._known: dict[int, Known] = {}
        self._look = 0
        self._looked_s: float | None = None

    def look(self, ports: Mapping[int, Port], now_s: float) -> list[Port]:
        """Those to ask now. What has ended is forgotten; what listens anew is asked anew."""
        for number in [one for one, known in self._known.items() if not self._same(ports.get(one), known)]:
            del self._known[number]
        for number, port in ports.items():
            known = self._known.get(number)
            if known is None and self._may(number):
                # Sockets of inner use (rendezvous of workers) have such a port, and most of them are gone soon.
                first = self._look + 1 if number in self._handed_out and number not in self._only else self._look
                self._known[number] = Known(port.inodes, self._looked_s, first)
            elif known is not None:
                known.inodes = port.inodes
        due = [ports[number] for number, known in self._known.items() if 0 <= known.due <= self._look]
        self._look, self._looked_s = self._look + 1, now_s
        return due

    def note(self, port: Port, outcome: Outcome) -> None:
        """What this port told."""
        known = self._known.get(port.number)
        if known is None or not known.inodes & port.inodes:
            return
        if outcome == "later":
            known.due, known.wait = self._look - 1 + known.wait, min(known.wait * 2, LONGEST_WAIT_LOOKS)
        else:
            known.due = -1

    def absent_s(self, number: int) -> float | None:
        """When this port was last seen not to listen; None where that was never seen."""
        known = self._known.get(number)
        return known.absent_s if known else None

    def _may(self, number: int) -> bool:
        if self._only:
            return number in self._only
        return number >= PRIVILEGED and number not in DANGEROUS and number not in self._skip

    @staticmethod
    def _same(port: Port | None, known: Known) -> bool:
        return port is not None and bool(port.inodes & known.inodes)
