"""A lane between two processes of one collector: a message one way, its answer back, one pair after the other.

It is one end of a pair of sockets that has no name and no file: only processes that were born with it can use it.
"""

import socket
import struct
import threading
from collections.abc import Callable

_LENGTH = struct.Struct("<Q")


class LaneClosed(Exception):
    """The process at the other end is gone; what it did with the last message is not known."""


class Lane:
    """The end that asks. May be used by several threads, which then wait for each other."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._turn = threading.Lock()

    def ask(self, message: bytes) -> bytearray:
        """The answer to this message. Raises LaneClosed."""
        with self._turn:
            try:
                _send(self._end, message)
                answer = _receive(self._end)
            except OSError as error:
                raise LaneClosed(str(error)) from error
        if answer is None:
            raise LaneClosed("it was closed")
        return answer


def serve(end: socket.socket, answer: Callable[[bytearray], bytes]) -> None:
    """Answer every message until the other end is closed."""
    try:
        while (message := _receive(end)) is not None:
            _send(end, answer(message))
    except OSError:
        # Whoever asked has died over it: there is nobody to be told.
        return


def _send(end: socket.socket, message: bytes) -> None:
    end.sendall(_LENGTH.pack(len(message)))
    end.sendall(message)


def _receive(end: socket.socket) -> bytearray | None:
    """The next message; None where the other end was closed, be it in the midst of one."""
    head = _exactly(end, _LENGTH.size)
    return None if head is None else _exactly(end, _LENGTH.unpack(head)[0])


def _exactly(end: socket.socket, size: int) -> bytearray | None:
    whole = bytearray(size)
    left = memoryview(whole)
    while left:
        # The kernel fills it in one call, and no other thread is disturbed meanwhile.
        got = end.recv_into(left, len(left), socket.MSG_WAITALL)
        if not got:
            return None
        left = left[got:]
    return whole
