"""Finds the inference servers of this machine by themselves: who listens on a port and shows a page that is known.

Reads `/proc/net/tcp` and `/proc/net/tcp6`, asks the ports that can be reached by the loopback address for a metrics
page, and reads those that a table recognises, as `openmetrics` does. On which boards they run, the agent finds out.

Requirements: none. An agent in a container sees the ports of its own network only.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from joulefleet import (
    SOMEWHERE,
    Engine,
    Failure,
    Meter,
    Reading,
    Source,
    SourceUnavailable,
    WorkKey,
    WorkReading,
    typed,
)
from joulefleet.reading import COUNT_FIELDS
from joulefleet.sockets import listening
from joulefleet.units import s_to_ns
from joulefleet_plugins.interfaces.endpoint import host_and_port
from joulefleet_plugins.interfaces.exposition import BadPage, Page, Parser
from joulefleet_plugins.interfaces.glance import REFUSED, STRANGE, Glance, glance
from joulefleet_plugins.work import openmetrics
from joulefleet_plugins.work.gateways import PROXY
from joulefleet_plugins.work.openmetrics import PATHS, SEVERAL, SEVERAL_WORDS, done_in_all
from joulefleet_plugins.work.port_book import Outcome, Port, PortBook, ports_of
from joulefleet_plugins.work.recognise import NotRecognised, recognise

TRIED = "faithful fake"
LOOK_S = 60.0
"""Between two looks at the ports."""
PERIOD_S = 5.0
"""Between two reads of the pages that were found."""
TIMEOUT_S = 2.0
ANSWERS_WITHIN_S = 0.5
"""A read that looks waits so long for what is asked; who answers later is there at the next read."""
FIRST_WITHIN_S = 3.0
"""The same, when the source is opened."""
GONE_LOOKS = 2
"""An engine whose port has not listened for so many looks in a row has ended: one that is started anew is there by
then, and is followed through its restart."""
MOST_ENGINES = 64
ASKING, READING = 4, 4
"""Threads: a server that does not answer must not delay the others."""
LATER = frozenset({0, 408, 425, 429, 500, 502, 503, 504})
"""No answer in time, and the states of servers that are busy or not ready: perhaps a page another time."""
LOOPBACK_6 = "::1"
TOLD_TWICE_FROM = 1_000
"""Two pages are held against each other, whether they are one engine's, once their counts are so large in sum."""
FIRST_READS = 2
"""A balancer before several servers, which take turns, shows another one by then."""
Counted = dict[tuple[WorkKey, str], int]
"""Counts by model, tenant and kind."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is looked for."""

    ports: tuple[Annotated[int, msgspec.Meta(ge=1, le=65535)], ...] = ()
    """Only these; also privileged ones, and those that are left alone otherwise."""
    skip: tuple[Annotated[int, msgspec.Meta(ge=1, le=65535)], ...] = ()
    """Not these."""


class FirstPage(NamedTuple):
    """The first answer that is a page."""

    glance: Glance
    path: str
    """Empty where it is not one of metrics at all."""
    host: str
    """The address that answered."""


class Found(msgspec.Struct):
    """One engine that was found."""

    port: Port
    page: openmetrics.OpenMetricsSource
    absent_s: float | None
    """When its port was last seen not to listen, until its first page is told: then it had counted nothing."""
    read_s: float | None = None
    """When its page was last read."""
    missing: int = 0
    """For how many looks its port has not listened."""

    apart_from: dict[int, tuple[str, str]] = {}
    """Ports whose page was held against this one and is another engine's, as both processes began then."""

    @property
    def engine(self) -> Engine:
        """As its page tells it now."""
        (engine,) = (one for one in self.page.declares if isinstance(one, Engine))
        return engine

    def is_twin_of(self, other: "Found", epochs: tuple[str, str]) -> bool:
        """Whether the other port shows this engine too, as far as their pages tell when they began.

        Both are read again: its counts then lie between what the other told before and after it, however busy it is.
        """
        same = epochs[0] == epochs[1] and self.engine.software == other.engine.software
        if not same or self.apart_from.get(other.port.number) == epochs:
            return False
        told = [_counted(one.page) for one in (other, self, other)]
        is_one = all(_risen(was, now) for was, now in pairwise(told))
        if not is_one and all(told):
            self.apart_from[other.port.number] = epochs
        return is_one


class FoundSource:
    """The engines of this machine."""

    def __init__(self, config: Config, root: Path = Path("/proc"), now_s: Callable[[], float] = time.monotonic) -> None:
        """`root` is where the kernel tells of sockets. Looks at once."""
        self.period_ns = s_to_ns(PERIOD_S)
        self.deadline_ns = s_to_ns(3 * PERIOD_S)
        self.declares: tuple[Meter | Engine, ...] = ()
        self._root, self._now_s = root, now_s
        self._book = PortBook(_handed_out(root), config.skip, config.ports)
        self._found: dict[int, Found] = {}
        self._refused: dict[int, Failure] = {}
        """Pages that must not be counted unasked, by port."""
        self._asking = ThreadPoolExecutor(ASKING, "glance")
        self._reading = ThreadPoolExecutor(READING, "page")
        self._asked: dict[Future[FirstPage], Port] = {}
        self._next_look_s = -1.0
        self._look(FIRST_WITHIN_S)

    def read(self) -> list[Reading]:
        """The pages of all engines that are there. Raises SourceUnavailable where there is none."""
        if self._now_s() >= self._next_look_s:
            self._look(ANSWERS_WITHIN_S)
        else:
            self._take_answers(0.0)
        said = list(self._reading.map(self._read, list(self._found.values())))
        self._drop_mixed(said)
        self._drop_twins([one for one in said if one])
        # A page tells whose it is; what is declared follows it.
        self.declares = tuple(one.engine for one in self._found.values())
        readings = [reading for each in said for reading in each]
        if not readings and not self._refused:
            mend = "start the server with its metrics page, or name the page as a source `openmetrics`"
            raise SourceUnavailable("absent", "no port of this machine shows the page of an inference server", mend)
        return [*readings, *self._refused.values()]

    def _look(self, within_s: float) -> None:
        now_s = self._now_s()
        self._next_look_s = now_s + LOOK_S
        ports = {number: one for number, one in ports_of(self._sockets()).items() if not one.inodes <= self._own()}
        for number, found in list(self._found.items()):
            found.missing = 0 if number in ports else found.missing + 1
            if found.missing >= GONE_LOOKS:
                del self._found[number]
        self._refused = {number: one for number, one in self._refused.items() if number in ports}
        in_hand = {one.number for one in self._asked.values()}
        for port in self._book.look(ports, now_s):
            if port.number not in in_hand:
                self._asked[self._asking.submit(_first_page, port)] = port
        self._take_answers(within_s)

    def _take_answers(self, within_s: float) -> None:
        done, _ = wait(self._asked, within_s)
        began_s = self._now_s()
        for one in sorted(done, key=lambda answer: self._asked[answer].number):
            if self._now_s() - began_s > PERIOD_S:
                # Slow pages: the rest has its turn at the next read.
                break
            port = self._asked.pop(one)
            seen = one.result()
            self._book.note(port, self._judge(port._replace(host=seen.host), seen.glance, seen.path))
        self.declares = tuple(one.engine for one in self._found.values())

    def _judge(self, port: Port, seen: Glance, path: str) -> Outcome:
        """Whether the page is an engine's; where it is, it is read from now on."""
        self._refused.pop(port.number, None)
        outcome = self._recognised(port, seen, path)
        if outcome == "page" and port.number not in self._found:
            return self._add(port, path)
        if outcome == "never":
            self._found.pop(port.number, None)
        return outcome

    def _add(self, port: Port, path: str) -> Outcome:
        if len(self._found) >= MOST_ENGINES:
            return self._refuse(port, "too_many", f"there are {MOST_ENGINES} engines already")
        page = openmetrics.OpenMetricsSource(_config(port, path), None, os.urandom(8).hex())
        readings = [reading for _ in range(FIRST_READS) for reading in page.read()]
        if len({one.epoch for one in readings if isinstance(one, WorkReading)}) > 1:
            return self._refuse(port, SEVERAL, SEVERAL_WORDS)
        if not isinstance(readings[-1], WorkReading):
            # Declared all the same, it would be missed for ever, and with it the figures of those beside it.
            return "later"
        self._found[port.number] = Found(port, page, self._book.absent_s(port.number))
        return "page"

    def _recognised(self, port: Port, seen: Glance, path: str) -> Outcome:
        if seen.status != 200:
            return "later" if seen.status in LATER else "never"
        try:
            page = Parser().parse(seen.text)
            table = recognise(page)
        except NotRecognised as error:
            if error.code != "unrecognised":
                return self._refuse(port, error.code, str(error))
            # A server may show its counters with its first request only.
            return "later" if path else "never"
        except BadPage:
            return "never"
        passed_on = _is_passed_on(page)
        if passed_on or table.gathered or table is PROXY:
            whose = "of one that passes on what it gathers" if passed_on else f"{table.software}'s"
            words = f"the page is {whose}, which counts what engines behind it may show themselves"
            mend = "it is counted only as a source `openmetrics` that names it, and then none of those may be read"
            code = "gathered" if passed_on or table.gathered else "gateway"
            return self._refuse(port, code, f"{words}: {mend}")
        return "page"

    def _refuse(self, port: Port, code: str, detail: str) -> Outcome:
        """It is told with every read, and not counted."""
        subject = host_and_port(("http", port.host, port.number))
        self._refused[port.number] = Failure(subject=subject, code=code, detail=detail)
        return "never"

    def _read(self, found: Found) -> list[Reading]:
        """In a thread, since another page may take long."""
        was, now_s, told = found.engine.id, self._now_s(), list[Reading]()
        for reading in found.page.read():
            if isinstance(reading, WorkReading):
                if reading.engine != was:
                    # Another server has the port: it was not there when the page was last read.
                    found.absent_s = found.read_s
                if found.absent_s is not None:
                    # It had counted nothing then: what its counters show was done since.
                    age_ns = s_to_ns(now_s - found.absent_s)
                    told.append(WorkReading(engine=reading.engine, epoch=reading.epoch, age_ns=age_ns))
                found.absent_s, found.read_s = None, now_s
            told.append(reading)
        return told

    def _drop_mixed(self, said: list[list[Reading]]) -> None:
        """Leave out ports at which several processes answer, and what they said."""
        for found, readings in zip(list(self._found.values()), said, strict=True):
            last = readings[-1] if readings else None
            if isinstance(last, Failure) and last.code == SEVERAL:
                self._book.note(found.port, self._refuse(found.port, SEVERAL, last.detail))
                del self._found[found.port.number]
                readings.clear()

    def _drop_twins(self, said: list[list[Reading]]) -> None:
        """Leave out the second of two ports that show one engine, and what it said."""
        kept: list[tuple[Found, WorkReading]] = []
        for found, readings in zip(list(self._found.values()), said, strict=True):
            last = readings[-1] if readings else None
            if not isinstance(last, WorkReading) or done_in_all(last) < TOLD_TWICE_FROM:
                continue
            if any(found.is_twin_of(other, (last.epoch, its.epoch)) for other, its in kept):
                self._book.note(found.port, "never")
                del self._found[found.port.number]
                readings.clear()
            else:
                kept.append((found, last))

    def _sockets(self) -> Iterator[Any]:
        for name in ("tcp", "tcp6"):
            yield from listening(_text(self._root / "net" / name))

    def _own(self) -> frozenset[str]:
        """Sockets of this process: the agent's own doors are not asked."""
        try:
            links = list((self._root / "self" / "fd").iterdir())
        except OSError:
            return frozenset()
        return frozenset(map(_inode, links))


def _first_page(port: Port) -> FirstPage:
    seen = STRANGE
    # A server that listens at all addresses of IPv6 may take none of IPv4.
    for host in dict.fromkeys((port.host, LOOPBACK_6)):
        for path in PATHS:
            seen = glance(host, port.number, path)
            if seen.status == 200 and "\n# " in f"\n{seen.text}":
                return FirstPage(seen, path, host)
            if seen.status not in (200, 404):
                break
        if seen != REFUSED:
            break
    return FirstPage(seen, "", host)


def _is_passed_on(page: Page) -> bool:
    """Whether its series tell from where they were gathered (by a collector, or one to which they are pushed)."""
    return any({"job", "instance"} <= one.labels.keys() for samples in page.samples.values() for one in samples)


def _counted(page: openmetrics.OpenMetricsSource) -> Counted:
    """What a page counts now; nothing where it does not tell."""
    counts = [one.counts for one in page.read() if isinstance(one, WorkReading)]
    return {
        (key, name): count
        for each in counts
        for key, one in each.items()
        for name in COUNT_FIELDS
        if (count := getattr(one, name)) is not None
    }


def _risen(was: Counted, now: Counted) -> bool:
    return bool(was) and all(count <= now.get(what, -1) for what, count in was.items())


def _config(port: Port, path: str) -> openmetrics.Config:
    url = f"http://{host_and_port(('http', port.host, port.number))}{path}"
    return openmetrics.Config(url=url, devices=(SOMEWHERE,), period_s=PERIOD_S, timeout_s=TIMEOUT_S)


def _inode(link: Path) -> str:
    try:
        return link.readlink().name.removeprefix("socket:[").removesuffix("]")
    except OSError:  # closed meanwhile
        return ""


def _handed_out(root: Path) -> range:
    """The ports that the system gives to who asks for any; Linux' default where it is not told."""
    try:
        first, last = map(int, _text(root / "sys/net/ipv4/ip_local_port_range").split())
    except ValueError:
        first, last = 32768, 60999
    return range(first, last + 1)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def open(table: dict[str, Any]) -> Source:
    """The engines that are found here. Raises ConfigError, and SourceUnavailable where there is no Linux to ask."""
    config = typed(table, Config, "found")
    if not Path("/proc/net/tcp").exists():
        raise SourceUnavailable("absent", "/proc/net/tcp does not exist", "name each engine as a source `openmetrics`")
    return FoundSource(config)
