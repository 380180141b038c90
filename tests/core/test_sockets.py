"""The kernel's tables of sockets: which ports can be reached by the loopback address, and where."""

import socket
from contextlib import closing
from pathlib import Path

import pytest

from joulefleet.sockets import Listening, listening

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(address: str, port: int, inode: int, state: str = "0A") -> str:
    rest = "00000000:00000000 00:00000000 00000000  1000 0"
    return f"   0: {address}:{port:04X} 00000000:0000 {state} {rest} {inode} 1\n"


@pytest.mark.parametrize("table", ["", "head\n", HEAD + "rubbish\n", HEAD + "0: 0100007F:1F40 0:0 0A\n"])
def test_a_table_that_tells_nothing_has_no_sockets(table: str) -> None:
    assert list(listening(table)) == []


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("0100007F", "127.0.0.1"),
        ("0300007F", "127.0.0.3"),
        ("00000000", "127.0.0.1"),
        ("0" * 32, "127.0.0.1"),
        ("0" * 24 + "01000000", "::1"),
        ("0" * 16 + "FFFF00000100007F", "127.0.0.1"),
    ],
)
def test_addresses_of_the_loopback_are_known_in_both_tables(address: str, host: str) -> None:
    assert list(listening(HEAD + line(address, 8000, 77))) == [Listening(8000, "77", host)]


def test_what_listens_elsewhere_or_does_not_listen_is_left_out() -> None:
    elsewhere = line("0500000A", 8000, 1) + line("00000120" + "0" * 24, 8000, 2)
    assert list(listening(HEAD + elsewhere + line("0100007F", 8000, 3, state="01"))) == []


def test_the_kernel_of_this_machine_tells_of_a_real_socket() -> None:
    with closing(socket.create_server(("127.0.0.3", 0))) as server:
        host, port = server.getsockname()
        inode = str(Path(f"/proc/self/fd/{server.fileno()}").readlink()).removeprefix("socket:[").rstrip("]")
        assert Listening(port, inode, host) in listening(Path("/proc/net/tcp").read_text())
