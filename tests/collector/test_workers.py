"""The address that several processes share, and how a worker's end is told; their life is in tests/e2e."""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from joulefleet.config import ConfigError
from joulefleet_collector.config import Listen, configure
from joulefleet_collector.service import CannotListen
from joulefleet_collector.sites import Site, Varying
from joulefleet_collector.workers import SILENT_S, WorkerEnded, _Ends, _Worker, bound, serve_with_workers


@contextmanager
def doors(listen: Listen, number: int) -> Iterator[list[list[socket.socket]]]:
    found = bound(listen, number)
    try:
        yield found
    finally:
        for one in (one for door in found for one in door):
            one.close()


def test_a_file_of_a_site_that_cannot_be_read_is_told_once_before_any_process_starts(tmp_path: Path) -> None:
    site = Site(pue=Varying(file=str(tmp_path / "none.csv")))
    config = msgspec.structs.replace(configure(None, str(tmp_path), 0, 2), sites=(site,))
    with pytest.raises(ConfigError, match=r"none\.csv: cannot be read"):
        serve_with_workers(config, lambda _: None)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_every_process_has_the_same_address(host: str) -> None:
    with doors(Listen(host=host, port=0), 3) as found:
        ports = {one.getsockname()[1] for door in found for one in door}
        assert len(found) == 3 and len(ports) == 1 and ports != {0}
        assert len({tuple(one.family for one in door) for door in found}) == 1


def test_each_of_them_takes_connections() -> None:
    with doors(Listen(port=0), 2) as ((one,), (other,)):
        for door in (one, other):
            door.listen(64)
            door.setblocking(False)
        clients = [socket.create_connection(one.getsockname(), timeout=10) for _ in range(60)]
        taken = [count(one), count(other)]
        for client in clients:
            client.close()
    assert sum(taken) == 60 and min(taken) > 0


def count(door: socket.socket) -> int:
    """How many connections wait here."""
    number = 0
    while True:
        try:
            connection, _ = door.accept()
        except BlockingIOError:
            return number
        connection.close()
        number += 1


def test_a_port_that_another_has_is_refused_even_where_that_one_would_share_it() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other, pytest.raises(CannotListen, match="in use"):
        bound(Listen(port=other.getsockname()[1]), 2)
    with doors(Listen(port=0), 2) as found:
        found[0][0].listen()
        with pytest.raises(CannotListen, match="in use"):
            bound(Listen(port=found[0][0].getsockname()[1]), 2)


def test_a_host_that_is_not_there_is_refused() -> None:
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1"):
        bound(Listen(host="192.0.2.1", port=0), 2)


@pytest.mark.parametrize(("code", "said"), [(-9, "was killed by SIGKILL"), (1, "ended with exit code 1")])
def test_how_a_worker_ended_is_told(code: int, said: str) -> None:
    assert str(WorkerEnded(77, code)).startswith(f"worker 77 {said}, and the collector ends with it")


def test_a_worker_that_is_silent_for_long_is_not_alive() -> None:
    life, other = socket.socketpair()
    with life, other:
        worker = _Worker(None, _Ends(life, life, life))  # type: ignore[arg-type]  # no process is needed
        worker.heard_s = 100.0
        assert worker.is_alive(100.0 + SILENT_S - 1)
        assert not worker.is_alive(100.0 + SILENT_S)
