"""Which TCP ports of this machine can be reached by the loopback address, from the kernel's own tables.

Reads the text of `/proc/net/tcp` and `/proc/net/tcp6`, as the kernel's documentation of them has it: addresses in
hexadecimal, each group of four bytes in the order of a little-endian processor, and a port behind them.
"""

from collections.abc import Iterator
from typing import NamedTuple

LISTENS = "0A"
LOCAL_6 = "00000000000000000000000001000000"
"""::1 as the kernel writes it."""
LOCAL_4_ENDS = "7F"
"""What an address of 127.0.0.0/8 ends with, also where it is written as one of IPv6."""


class Listening(NamedTuple):
    """One socket that waits for connections."""

    port: int
    inode: str
    """The socket's own number: another process, or the same one when it listens anew, has another."""
    host: str = "127.0.0.1"
    """The loopback address at which it can be reached."""


def listening(table: str) -> Iterator[Listening]:
    """Each socket in a table that can be reached by the loopback address; lines that are none are passed over."""
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[3] == LISTENS:
            address, _, port = words[1].rpartition(":")
            if host := _reached_by(address):
                yield Listening(int(port, 16), words[9], host)


def _reached_by(address: str) -> str:
    """The address to ask; empty where the loopback does not lead there."""
    if not address.strip("0"):
        return "127.0.0.1"
    if address == LOCAL_6:
        return "::1"
    if not address.endswith(LOCAL_4_ENDS):
        return ""
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(address[-8:])))
