"""The relay's source, asking a real door over loopback."""

import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fixtures.certificate import self_signed
from joulefleet.config import ConfigError
from joulefleet.describe import Meter
from joulefleet.reading import Failure, MeterReading
from joulefleet.relaying import Answer
from joulefleet.source import SourceUnavailable
from joulefleet.token import Keys, mint
from joulefleet_plugins.meters import relay
from joulefleet_plugins.meters.relay import RelaySource
from rigs.relay import rig

S = 1_000_000_000
KEY = b"k" * 32
METER = Meter(id="rack/pdu", kind="server", grade="integrated", sensor_class="platform", period_ns=10 * S)
OTHER = msgspec.structs.replace(METER, id="rack/other", period_ns=5 * S)
EMPTY = Answer(life="l", at_ns=0, number=0)


class Relay:
    """A relay that answers what a test says."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int]] = []

    def ask(self, life: str, since: int) -> Answer:
        self.asked.append((life, since))
        return self.answers.pop(0)


def reading(watts: int, age_s: int = 0) -> MeterReading:
    return MeterReading(meter="rack/pdu", power_mw=watts * 1_000, age_ns=age_s * S)


def test_what_was_read_since_the_last_answer_with_its_age(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        made.run(10, 400)
        made.run(10, 500)
        source = made.open()
        assert [(one.meter, one.age_ns // S) for one in source.read() if isinstance(one, MeterReading)] == [
            ("bmc/input", 10),
            ("bmc/input", 0),
        ]
        assert source.read() == []
        made.run(10, 600)
        assert [one.power_mw for one in source.read() if isinstance(one, MeterReading)] == [600_000]


def test_declared_is_what_the_relay_declares_and_it_may_change() -> None:
    meters = Answer(life="l", at_ns=0, number=1, meters=(METER,))
    changed = Answer(life="l", at_ns=0, number=2, meters=(METER, OTHER))
    told = Relay(meters, meters, changed)
    source = RelaySource(told.ask)
    assert (source.declares, source.period_ns) == ((METER,), 10 * S)
    source.read()
    source.read()
    assert (source.declares, source.period_ns) == ((METER, OTHER), 5 * S)
    assert told.asked == [("", 0), ("", 0), ("l", 1)]


def test_a_relay_that_was_restarted_is_read_from_its_beginning_and_its_meters_are_not_forgotten() -> None:
    before = Answer(life="a", at_ns=0, number=9, meters=(METER,), readings=(reading(1),))
    starting = Answer(
        life="b", at_ns=0, number=0, failures=(Failure(subject="", code="timeout", detail="rack: no answer"),)
    )
    after = Answer(life="b", at_ns=0, number=1, meters=(METER,), readings=(reading(2),))
    told = Relay(before, before, starting, after)
    source = RelaySource(told.ask, lambda: 0)
    assert [len(source.read()), source.declares, len(source.read()), source.declares] == [1, (METER,), 1, (METER,)]
    assert source.read() == [reading(2)]
    assert told.asked[-2:] == [("a", 9), ("b", 0)]


def test_an_answer_that_took_long_does_not_move_what_it_tells() -> None:
    """The relay answers as soon as it is asked; the second answer takes 4 s to come, so that its middle is 2 s late."""
    answers = [
        Answer(life="l", at_ns=at_s * S, number=at_s, meters=(METER,), readings=(reading(1, 3),)) for at_s in (0, 0, 10)
    ]
    clock = iter([100 * S, 100 * S, 110 * S, 114 * S])
    source = RelaySource(Relay(*answers).ask, lambda: next(clock))
    ages_s = [one.age_ns / S for _ in range(2) for one in source.read() if isinstance(one, MeterReading)]
    assert ages_s == [3.0, 5.0]


def test_a_relay_without_a_meter_for_this_server_is_no_source_yet() -> None:
    with pytest.raises(SourceUnavailable) as absent:
        RelaySource(
            Relay(msgspec.structs.replace(EMPTY, failures=(Failure(subject="", code="timeout", detail="rack"),))).ask
        )
    assert (absent.value.code, "rack" in str(absent.value)) == ("timeout", True)
    with pytest.raises(SourceUnavailable) as absent:
        RelaySource(Relay(EMPTY).ask)
    assert absent.value.code == "absent"


def code_of(source: Any) -> str:
    """Why there is no value now."""
    try:
        readings = source.read()
    except SourceUnavailable as unavailable:
        return unavailable.code
    assert [one for one in readings if not isinstance(one, Failure)] == []
    return str(readings[-1].code)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("fails", "relay_failed"),
        ("gone", "gone"),
        ("rubbish", "relay_failed"),
        ("empty", "relay_failed"),
        ("negative", "not_a_number"),
    ],
)
def test_an_answer_that_is_none_is_told_and_nothing_is_lost_by_it(tmp_path: Path, fault: str, code: str) -> None:
    with rig(tmp_path) as made:
        made.run(10, 400)
        source = made.open()
        source.read()
        made.faults[fault]()
        made.run(10, 500)
        assert code_of(source) == code
        made.mend()
        made.run(10, 600)
        told = [one.power_mw for one in source.read() if isinstance(one, MeterReading)]
        assert told == ([600_000] if fault in ("gone", "negative") else [500_000, 600_000])


def test_a_relay_that_does_not_answer_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "TIMEOUT_S", 0.2)
    with rig(tmp_path) as made:
        made.run(10, 400)
        source = made.open()
        made.faults["hangs"]()
        assert code_of(source) == "relay_unreachable"
        made.mend()
        assert len(source.read()) == 1


def test_no_relay_there(tmp_path: Path) -> None:
    with rig(tmp_path) as made:
        url = made.url
    with pytest.raises(SourceUnavailable) as absent:
        relay.open({"url": url})
    assert absent.value.code == "relay_unreachable"
    assert absent.value.detail == f"{url.removeprefix('http://')}: Connection refused"
    assert absent.value.mend == "start `joulefleet agent relay` there, or correct `url`"


def test_https_asked_of_a_relay_without_a_certificate_says_so(tmp_path: Path) -> None:
    with rig(tmp_path) as made, pytest.raises(SourceUnavailable) as absent:
        relay.open({"url": made.url.replace("http:", "https:")})
    assert absent.value.detail.endswith("wrong version number")
    assert "with http:// where it has none" in absent.value.mend


def test_https_with_a_token_and_an_authority_of_its_own(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    token = tmp_path / "token"
    token.write_text(mint("k1", KEY, "a"))
    with rig(tmp_path, Keys(keys={"k1": KEY}), tls) as made:
        made.run(10, 400)
        table = {"url": made.url, "server": "a", "token_file": str(token)}
        assert len(relay.open({**table, "ca": certificate}).read()) == 1
        with pytest.raises(SourceUnavailable, match="certificate"):
            relay.open(table)
        token.write_text(mint("k1", KEY, "b"))
        with pytest.raises(SourceUnavailable) as refused:
            relay.open({**table, "ca": certificate})
    assert refused.value.code == "permission"
    assert "joulefleet collector token a" in refused.value.mend
    assert "jf1." not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"url": "relay.example:8766"}, "url"),
        ({"url": "http://relay.example:8766"}, "expected https"),
        ({"url": "https://user@relay.example"}, "url"),
        ({"url": "https://relay.example:0"}, "url"),
        ({"url": "https://relay.example?x=1"}, "url"),
        ({"token_file": "/nonexistent"}, "/nonexistent"),
        ({"ca": "/nonexistent"}, "/nonexistent"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_name(change: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        relay.open({"url": "https://relay.example:8766", **change})
    assert told in str(refused.value)


def test_a_token_that_is_none_is_refused_and_not_told(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("two words\n")
    with pytest.raises(ConfigError) as refused:
        relay.open({"url": "https://relay.example:8766", "token_file": str(file)})
    assert "words" not in str(refused.value)
