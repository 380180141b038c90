"""The relay as a whole, in this process: its sources read in threads, its door asked over loopback."""

import http.client
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from fixtures.powercap import Tree
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.relaying import PATH, Answer, decode
from joulefleet_agent.relay import Relay, configured, run_relay, tls_of
from joulefleet_agent.relay_config import Listen, RelayConfig, Serves
from joulefleet_agent.sampler import Absent, Gone, MustEnd, Opened, Refused, Said
from joulefleet_agent.service import EXIT_AGAIN, EXIT_OK

WAIT_S = 20
S = 1_000_000_000
PDU = Meter(id="pdu", kind="server", grade="integrated", sensor_class="platform")


def config_of(sources: dict[str, dict[str, Any]], *serves: Serves) -> RelayConfig:
    return RelayConfig(listen=Listen(port=0), sources=sources, serves=serves)


@contextmanager
def running(config: RelayConfig) -> Iterator[Callable[[str], Answer]]:
    """The relay in a thread; asks it as a server."""
    stop, urls = threading.Event(), queue.Queue[str]()
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run_relay(config, "relay.toml", stop, urls.put)))
    thread.start()
    parts = urlsplit(urls.get(timeout=WAIT_S))

    def ask(server: str) -> Answer:
        with closing(http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WAIT_S)) as connection:
            connection.request("GET", f"{PATH}?server={server}")
            return decode(connection.getresponse().read())

    try:
        yield ask
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert codes == [EXIT_OK]


def until(condition: Callable[[], Any], what: str) -> Any:
    end_s = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < end_s, f"waited {WAIT_S} s for {what}"
        time.sleep(0.01)
    return found


def test_a_source_that_is_opened_and_read_is_told_to_its_server(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    counter = tree.zone("intel-rapl:0", "package-0", energy_uj=5_000_000)
    table = {"use": "rapl", "root": str(tree.root), "boot_id": str(tree.boot_id), "period_s": 0.05}
    absent = {"use": "rapl", "root": str(tmp_path / "none"), "boot_id": str(tree.boot_id)}
    config = config_of(
        {"host": table, "gone": absent}, Serves(server="a", source="host"), Serves(server="b", source="gone")
    )
    with running(config) as ask:
        first = until(lambda: (answer := ask("a")).readings and answer, "a reading")
        assert [one.id for one in first.meters] == ["host/package-0"]
        assert {one.counter_uj for one in first.readings} == {5_000_000}
        counter.write_text("7000000\n")
        until(lambda: ask("a").readings[-1].counter_uj == 7_000_000, "the new value")
        (failure,) = until(lambda: ask("b").failures, "the other source to be told as absent")
        assert (failure.subject, failure.code) == ("", "absent")
        assert ask("b").meters == ()


def test_events_that_end_or_change_a_source() -> None:
    relay = Relay(config_of({"rack": {"use": "snmp"}}, Serves(server="a", source="rack")), lambda: 100 * S, lambda: 0)

    def answer() -> Answer:
        body = relay.tell("a", "", 0)
        assert body is not None
        return decode(body)

    assert relay.tell("nobody", "", 0) is None
    relay.take(Absent("rack", "timeout", "no answer", "check the cable"))
    assert [one.code for one in answer().failures] == ["timeout"]
    relay.take(Opened("rack", (PDU,)))
    relay.take(Said("rack", 90 * S, (MeterReading(meter="pdu", power_mw=5),)))
    assert [(one.meter, one.age_ns) for one in answer().readings] == [("rack/pdu", 10 * S)]
    assert answer().failures == ()
    relay.take(Gone("rack"))
    assert (answer().meters, answer().readings) == ((), ())
    with pytest.raises(ConfigError):
        relay.take(Refused("rack", ConfigError("snmp", "pdu", "expected")))
    relay.take(MustEnd("rack", "driver"))
    assert relay.exit_code == EXIT_AGAIN


def test_a_source_that_hangs_is_told_as_hung(tmp_path: Path) -> None:
    relay = Relay(config_of({"rack": {"use": "snmp"}}, Serves(server="a", source="rack")), lambda: 100 * S)
    relay.take(Opened("rack", (PDU,)))

    class Hanging:
        def overdue(self, boot_ns: int) -> Any:
            return Failure(subject="", code="hung", detail=f"at {boot_ns}")

    relay.watch({"rack": Hanging()})  # type: ignore[dict-item] # stands in for a Reader
    body = relay.tell("a", "", 0)
    assert body is not None
    assert [(one.subject, one.code) for one in decode(body).failures] == [("rack/pdu", "hung")]


def test_a_source_that_is_not_installed_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no source is named 'colour'"):
        configured(config_of({"rack": {"use": "colour"}}, Serves(server="a", source="rack")), "relay.toml")


def test_a_table_that_its_source_refuses_ends_the_relay() -> None:
    config = config_of({"rack": {"use": "rapl", "colour": "red"}}, Serves(server="a", source="rack"))
    with pytest.raises(ConfigError, match=r"relay\.toml: rapl: colour"):
        run_relay(config, "relay.toml", threading.Event(), lambda _url: None)


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.pem"):
        tls_of(Listen(tls_certificate=str(tmp_path / "none.pem"), tls_key="k"))
    assert tls_of(Listen()) is None
