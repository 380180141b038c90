"""The way to a unit, through the real package, to a fake agent over loopback."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fixtures.snmp_agent import SnmpAgent, serving
from joulefleet_plugins.meters.snmp_link import MOST_OIDS, TRIES, Link, connected
from joulefleet_plugins.meters.snmp_pdus import NotFed

snmp = pytest.importorskip("gufo.snmp", reason="the package gufo-snmp is not installed")
sync = pytest.importorskip("gufo.snmp.sync")
OID = "1.3.6.1.4.1.318.1.1.26.9.4.3.1.7.{}"


@pytest.fixture
def agent() -> Iterator[SnmpAgent]:
    with serving() as made:
        yield made


@pytest.fixture
def link(agent: SnmpAgent) -> Link:
    return Link(partial(connected, sync, ("127.0.0.1", agent.port), lambda: {"community": "public"}), snmp)


def refused(link: Link) -> str:
    with pytest.raises(NotFed) as caught:
        link.ask([OID.format(1)])
    return caught.value.code


def test_what_the_unit_has_and_nothing_else(agent: SnmpAgent, link: Link) -> None:
    agent.values = {OID.format(1): 412, OID.format(2): b"text", OID.format(3): -1}
    assert link.ask([OID.format(number) for number in (1, 2, 3, 4)]) == agent.values


def test_more_than_fits_one_answer_is_several_requests(agent: SnmpAgent, link: Link) -> None:
    agent.values = {OID.format(number): number for number in range(1, 3 * MOST_OIDS)}
    assert link.ask(list(agent.values)) == agent.values
    assert [len(asked) for asked in agent.asked] == [MOST_OIDS, MOST_OIDS, MOST_OIDS - 1]


def test_a_lost_datagram_is_asked_for_again_and_two_are_a_silent_unit(agent: SnmpAgent, link: Link) -> None:
    agent.values = {OID.format(1): 412}
    agent.dropped = TRIES - 1
    assert link.ask(list(agent.values)) == agent.values
    agent.dropped = TRIES
    assert refused(link) == "timeout"
    assert link.ask(list(agent.values)) == agent.values


def test_a_unit_that_fails_for_long_holds_no_sockets(agent: SnmpAgent, link: Link) -> None:
    agent.garbage = b"\x30\x03\x02\x01\x01"
    assert refused(link) == "snmp_failed"
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        refused(link)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
