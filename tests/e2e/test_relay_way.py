"""A meter that only the relay reaches, to the ledger: exact to the microjoule, whatever happens to the relay."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fixtures.collectors import Collector
from fixtures.powercap import Tree
from fixtures.processes import Command, agent_config, free_port, running, until
from fixtures.snmp_agent import SnmpAgent, serving
from joulefleet.token import mint
from joulefleet.units import j_to_uj, uj_to_j
from joulefleet.window import MeterWindow, Window

KEY = b"k" * 32
METER, PDU = "chassis/package-0", "chassis/pdu"
WATTS = 500
FIRST_UJ = j_to_uj(1_000)
STEP_J = 5
"""At most 800 W are believed of the zone: so much in a tenth of a second is less."""

Start = Callable[..., Command]


class Meter(threading.Thread):
    """The counter that the relay reads; it counts until it is stopped."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._tree = Tree(folder)
        self._counter = self._tree.zone("intel-rapl:0", "package-0", energy_uj=FIRST_UJ)
        self._end = threading.Event()
        self.counter_uj = FIRST_UJ

    @property
    def source(self) -> str:
        """The relay's table for it."""
        return f'use = "rapl"\nroot = "{self._tree.root}"\nboot_id = "{self._tree.boot_id}"\nperiod_s = 0.1\n'

    def run(self) -> None:
        while not self._end.wait(0.1):
            self.counter_uj += j_to_uj(STEP_J) + 1
            # As many digits as before, over those: a reader finds the one number or the other.
            with self._counter.open("r+b", buffering=0) as counter:
                counter.write(b"%d" % self.counter_uj)

    def stop(self) -> None:
        """Let it stand where it stands."""
        self._end.set()
        self.join()


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[Meter]:
    made = Meter(tmp_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(tmp_path: Path, port: int) -> Iterator[Start]:
    """Starts a relay of this source for the server `s`; again, if it was killed."""
    (tmp_path / "keys.toml").write_text(f'[keys]\nk1 = "{KEY.hex()}"\n')
    config = tmp_path / "relay.toml"
    with ExitStack() as ends:

        def begin(source: str) -> Command:
            config.write_text(
                f'key_file = "{tmp_path / "keys.toml"}"\n[listen]\nport = {port}\n[sources.chassis]\n{source}'
                '[[serves]]\nserver = "s"\nsource = "chassis"\n'
            )
            command = ends.enter_context(running(tmp_path / "relay", "agent", "relay", "--config", str(config)))
            until(lambda: "listens on" in command.out or not command.alive, "the relay to listen")
            assert command.alive, command.err
            return command

        yield begin


def agent_of(folder: Path, url: str, port: int, token: str) -> Path:
    file = folder / "token"
    file.write_text(f"{token}\n")
    source = f'[[sources]]\nuse = "relay"\nurl = "http://127.0.0.1:{port}"\nserver = "s"\ntoken_file = "{file}"\n'
    return agent_config(folder, url, source, step_s=1)


def told(windows: list[Window], meter: str = METER) -> list[MeterWindow]:
    return [one for window in windows for one in window.meters if one.meter.id == meter]


def reached(collector: Collector) -> int:
    """Where the counter stood when the last window ended."""
    return max((one.last_uj for one in told(collector.windows())), default=0)


def test_sums_are_those_of_the_meter_also_when_the_relay_is_killed_and_comes_back(
    tmp_path: Path, collector: Collector, meter: Meter, start: Start, port: int
) -> None:
    relay = start(meter.source)
    config = agent_of(tmp_path, collector.url, port, mint("k1", KEY, "s"))
    with running(tmp_path / "agent", "agent", "run", "--config", str(config)) as agent:
        until(lambda: reached(collector) > FIRST_UJ, "the meter's first window")
        relay.kill()
        until(lambda: "relay_unreachable" in agent.err, "the agent to miss the relay")
        again = start(meter.source)
        until(lambda: "answers again" in agent.err, "the agent to find the relay again")
        meter.stop()
        until(lambda: reached(collector) == meter.counter_uj, "all that the meter counted")
        assert agent.end() == 0
        assert again.end() == 0
    parts = told(collector.windows())
    first_uj = min(one.first_uj for one in parts if one.last_uj)
    assert sum(one.energy_uj + one.late_uj for one in parts) == meter.counter_uj - first_uj
    assert first_uj >= FIRST_UJ
    assert {one.meter.kind for one in parts} == {"cpu_package"}


def test_a_token_of_another_server_reads_nothing(
    tmp_path: Path, collector: Collector, meter: Meter, start: Start, port: int
) -> None:
    start(meter.source)
    config = agent_of(tmp_path, collector.url, port, mint("k1", KEY, "other"))
    with running(tmp_path / "agent", "agent", "run", "--config", str(config)) as agent:
        until(lambda: "permission" in agent.err, "the agent to say why")
        assert "the token is not one of server 's'" in agent.err
        assert "joulefleet collector token s" in agent.err
        assert mint("k1", KEY, "other") not in agent.err
        assert not re.search(r"jf1\.", agent.err)
        assert agent.end() == 0
    assert [meter for window in collector.windows() for meter in window.meters] == []


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[SnmpAgent]:
    """A PDU with one outlet that carries WATTS."""
    pytest.importorskip("gufo.snmp", reason="the package gufo-snmp is not installed")
    (tmp_path / "community").write_text("public\n")
    with serving() as made:
        made.values = {"1.3.6.1.4.1.318.1.1.26.9.4.3.1.7.7": WATTS}
        yield made


def test_an_agent_that_was_away_is_told_of_a_gauge_what_it_missed(
    tmp_path: Path, collector: Collector, unit: SnmpAgent, start: Start, port: int
) -> None:
    feed = f'{{ host = "127.0.0.1", port = {unit.port}, outlet = "7" }}'
    community = f'community_file = "{tmp_path / "community"}"'
    start(f'use = "snmp"\npdu = "apc_outlet"\n{community}\nperiod_s = 1\nmeters = [{{ feeds = [{feed}] }}]\n')
    config = agent_of(tmp_path, collector.url, port, mint("k1", KEY, "s"))

    def used_j() -> float:
        return uj_to_j(sum(one.energy_uj + one.late_uj for one in told(collector.windows(), PDU)))

    with running(tmp_path / "agent", "agent", "run", "--config", str(config)) as agent:
        until(used_j, "the outlet's first window")
        assert agent.end() == 0
    before_j, away_s, asked = used_j(), time.monotonic(), len(unit.asked)
    until(lambda: len(unit.asked) >= asked + 5, "the relay to read on")
    away_j = WATTS * (time.monotonic() - away_s)
    with running(tmp_path / "agent", "agent", "run", "--config", str(config)):
        until(lambda: used_j() >= before_j + away_j, "what was used meanwhile")
    parts = told(collector.windows(), PDU)
    assert all(one.energy_uj <= j_to_uj(WATTS * 1.001) for one in parts), "no second has more than its watts"
    assert {one.meter.kind for one in parts} == {"server"}
