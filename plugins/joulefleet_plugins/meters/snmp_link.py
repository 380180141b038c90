"""The way to one power distribution unit: SNMP GET requests over a socket that is kept while it works."""

import socket
from collections.abc import Callable, Mapping
from typing import Any

from joulefleet_plugins.meters.snmp_pdus import NotFed

ANSWER_S = 1.0
TRIES = 2
MOST_OIDS = 14
"""In one request, of some 30 bytes each: more than 484 bytes no agent must be able to give (RFC 3417)."""

Ask = Callable[[list[str]], Mapping[str, object]]
"""Asks a unit for these OIDs; what it does not have is not in the answer. Raises NotFed."""


class Link:
    """The way to one PDU: a socket that is kept until it fails, since a unit that restarted is another SNMP engine."""

    def __init__(self, connect: Callable[[], Any], errors: Any) -> None:
        """`connect` makes a session of gufo-snmp, and `errors` is its module."""
        self._connect = connect
        self._errors = errors
        self._session: Any = None

    def ask(self, oids: list[str]) -> dict[str, object]:
        """What the unit has of these. Raises NotFed after `TRIES` tries."""
        for left in reversed(range(TRIES)):
            told = self._tried(oids)
            if not isinstance(told, NotFed):
                return told
            self._session = None
            if told.code != "timeout" or not left:
                raise told
        raise AssertionError("the last try returns or raises")

    def _tried(self, oids: list[str]) -> dict[str, object] | NotFed:
        # Told as a value: an exception that was raised here would hold the session, and so a socket, by its traceback.
        try:
            return self._ask_once(oids)
        except TimeoutError:
            return NotFed("timeout", "no answer: unreachable, or it knows no such community or user")
        except self._errors.SnmpAuthError:
            return NotFed("permission", "SNMP: user or passphrase is wrong, or not allowed")
        except (self._errors.SnmpError, OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return NotFed("snmp_failed", f"SNMP: {reason}")

    def _ask_once(self, oids: list[str]) -> dict[str, object]:
        try:
            if self._session is None:
                self._session = self._connect()
            answers: dict[str, object] = {}
            for start in range(0, len(oids), MOST_OIDS):
                answers.update(self._session.get_many(oids[start : start + MOST_OIDS]))
        except BlockingIOError as error:
            # What the v3 handshake of gufo-snmp raises when its time is up.
            raise TimeoutError from error
        return answers


def connected(sync: Any, place: tuple[str, int], credentials: Callable[[], dict[str, Any]]) -> Any:
    """A session of gufo-snmp with the unit there. Raises OSError, and what gufo-snmp raises."""
    found = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)
    session = sync.SnmpSession(found[0][4][0], place[1], timeout=ANSWER_S, **credentials())
    session.refresh()
    return session
