"""Windows survive their encodings whole, and what is none is refused."""

import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.describe import Engine, Meter, Reservation
from joulefleet.reading import Counts, WorkKey
from joulefleet.window import (
    SCHEMA,
    AgentCost,
    EngineWindow,
    Losses,
    MeterWindow,
    Window,
    Work,
    WrongSchema,
    coarse,
    decode,
    decode_json,
)

counts = st.integers(0, 2**63 - 1)
texts = st.text(max_size=10)
optional = st.none() | counts
meters = st.builds(
    MeterWindow,
    meter=st.builds(
        Meter,
        id=texts,
        kind=st.sampled_from(["accelerator", "server"]),
        grade=st.sampled_from(["counter", "modelled"]),
        sensor_class=st.just("onboard"),
        contains=st.just(("dram", "cpu_core")),
        modulus_uj=counts,
        simulated=st.booleans(),
    ),
    first_uj=counts,
    last_uj=counts,
    energy_uj=counts,
    trace_mw=st.lists(optional, max_size=6).map(tuple),
    late_uj=counts,
    gaps_ns=st.dictionaries(texts, counts, max_size=2),
    idle_mw=optional,
    idle_learnt=st.booleans(),
    activity_ns=st.none() | st.dictionaries(texts, counts, max_size=2),
    gauges=st.dictionaries(texts | st.just("first_uj"), st.floats(-1e9, 1e9), max_size=2),
)
works = st.builds(
    Work,
    key=st.builds(WorkKey, texts, texts, texts),
    counts=st.builds(Counts, requests_ok=optional, output_tokens=optional),
    late=st.builds(Counts, prompt_tokens=optional),
    latency=st.dictionaries(
        st.sampled_from(["ttft", "e2e"]), st.dictionaries(st.integers(0, 57), counts, max_size=4), max_size=2
    ),
)
engines = st.builds(
    EngineWindow,
    engine=st.builds(
        Engine, id=texts, software=texts, devices=st.lists(st.builds(Reservation, texts, counts), max_size=2).map(tuple)
    ),
    work=st.lists(works, max_size=2).map(tuple),
    running_start=optional,
    running_ns=optional,
)
windows = st.builds(
    Window,
    server=texts,
    timeline=st.integers(0, 2**32 - 1),
    start_ns=counts,
    step_ns=counts,
    labels=st.dictionaries(texts | st.just("last_uj"), texts, max_size=2),
    meters=st.lists(meters, max_size=2).map(tuple),
    engines=st.lists(engines, max_size=2).map(tuple),
    losses=st.builds(Losses, seconds=st.floats(0, 1e9), energy_uj=counts),
    agent=st.builds(AgentCost, cpu_ns=counts, clock_ahead_ns=st.none() | st.integers(-(2**62), 2**62)),
    facts=st.dictionaries(texts, texts, max_size=2),
)
WINDOW = Window(
    server="s",
    timeline=7,
    start_ns=1_700_000_000 * 10**9,
    step_ns=10**10,
    meters=(
        MeterWindow(
            meter=Meter(id="m", kind="dram", grade="counter", sensor_class="onboard"),
            first_uj=2**53 + 1,
            last_uj=2**53 + 3,
            energy_uj=2,
        ),
    ),
)


@given(windows)
def test_nothing_changes_in_msgpack_and_json(window: Window) -> None:
    assert decode(window.encode()) == window
    assert decode_json(window.encode_json()) == window
    assert decode_json(decode(window.encode()).encode_json()) == window


@given(windows)
def test_equal_windows_are_equal_bytes(window: Window) -> None:
    assert decode(window.encode()).encode() == window.encode()


def test_raw_counters_are_strings_in_json() -> None:
    [meter] = json.loads(WINDOW.encode_json())["meters"]
    assert (meter["first_uj"], meter["last_uj"], meter["energy_uj"]) == ("9007199254740993", "9007199254740995", 2)


def test_raw_counters_may_be_numbers_in_json() -> None:
    body = WINDOW.encode_json().replace(b'"9007199254740993"', b"9007199254740993")
    assert decode_json(body) == WINDOW


def test_absent_counts_are_not_zero() -> None:
    window = msgspec.structs.replace(
        WINDOW,
        engines=(EngineWindow(engine=Engine(id="e", software="x"), work=(Work(key=WorkKey("m"), counts=Counts()),)),),
    )
    for again in (decode(window.encode()), decode_json(window.encode_json())):
        assert again.engines[0].work[0].counts.requests_ok is None
        assert again.engines[0].running_start is None


def test_key_and_end() -> None:
    assert WINDOW.key == ("s", 7, 10**10, 1_700_000_000 * 10**9)
    assert WINDOW.end_ns == 1_700_000_010 * 10**9


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, "1", None])
def test_another_schema_is_told_apart_from_a_malformed_window(schema: object) -> None:
    table: dict[str, Any] = {"schema": schema, "unheard": [1, {"of": 2}]}
    for body, opened in ((msgspec.msgpack.encode(table), decode), (msgspec.json.encode(table), decode_json)):
        with pytest.raises(WrongSchema) as error:
            opened(body)
        assert error.value.schema == schema
        assert f"reads schema {SCHEMA}" in str(error.value)


def test_fields_of_later_versions_are_ignored() -> None:
    table = {**json.loads(WINDOW.encode_json()), "later": {"x": [1]}}
    assert decode_json(json.dumps(table)) == WINDOW


@pytest.mark.parametrize("change", [{"start_ns": "x"}, {"meters": 3}, {"server": None}, {"timeline": 1.5}])
def test_a_malformed_window(change: dict[str, object]) -> None:
    table = {**msgspec.msgpack.decode(WINDOW.encode()), **change}
    with pytest.raises(msgspec.ValidationError):
        decode(msgspec.msgpack.encode(table))
    with pytest.raises(msgspec.ValidationError):
        decode_json(msgspec.json.encode(table))


@given(st.integers(0, len(WINDOW.encode()) - 1))
def test_a_window_that_is_cut_off(length: int) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(WINDOW.encode()[:length])


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_by_name(body: bytes) -> None:
    for opened in (decode, decode_json):
        with pytest.raises((msgspec.DecodeError, WrongSchema)):
            opened(body)


@given(st.floats(-1e12, 1e12, allow_subnormal=False))
def test_a_coarse_mean_is_close_and_short(value: float) -> None:
    told = coarse(value)
    assert told == pytest.approx(value, rel=1 / 4_096, abs=0)
    assert struct.pack(">d", told).endswith(bytes(4))
    assert coarse(told) == told


@given(st.integers(0, 4_096))
def test_a_small_whole_number_stays_as_it_is(value: int) -> None:
    assert coarse(value) == value
