"""What a program may tell of its work, and what is refused with a sentence."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.reading import Counts, WorkKey
from joulefleet_plugins.work.push_message import MAX_NAME_CHARACTERS, BadMessage, messages_of

GOOD: dict[str, Any] = {"engine": "e", "model": "M", "sender": "s", "seq": 1, "counts": {"requests_ok": 1}}


def body(**changes: Any) -> bytes:
    told = {**GOOD, **changes}
    return json.dumps({name: value for name, value in told.items() if value is not None}).encode()


def test_one_message_or_a_list_of_them() -> None:
    (one,) = messages_of(body())
    assert (one.engine, one.sender, one.seq, one.key) == ("e", "s", 1, WorkKey("M"))
    assert messages_of(b"[" + body() + b"," + body(seq=2) + b"]")[1].seq == 2
    assert messages_of(b"[]") == []


def test_all_that_can_be_told() -> None:
    counts = {
        "requests_ok": 1,
        "requests_failed": 2,
        "requests_aborted": 3,
        "prompt_tokens": 4,
        "cached_tokens": 5,
        "output_tokens": 6,
        "busy_s": 1.5,
        "prefill_busy_s": 0.25,
    }
    who = {"revision": "r", "tenant": "t", "running": 7, "from": 1_790_000_000, "to": 1_790_000_010.5}
    (one,) = messages_of(body(counts=counts, **who))
    assert one.key == WorkKey("M", "r", "t")
    assert one.running == 7
    assert one.counts is not None
    assert one.counts.counts == Counts(
        requests_ok=1,
        requests_failed=2,
        requests_aborted=3,
        prompt_tokens=4,
        cached_tokens=5,
        output_tokens=6,
        busy_ns=1_500_000_000,
        prefill_busy_ns=250_000_000,
    )


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (body(tokens=3), "unknown field `tokens`"),
        (body(counts={"tokens": 3}), "unknown field `tokens`"),
        (body(counts={"requests_ok": -1}), ">= 0"),
        (body(counts={"requests_ok": 1.5}), "int"),
        (body(counts={"requests_ok": "1"}), "int"),
        (body(counts={"requests_ok": True}), "int"),
        (body(counts={"output_tokens": 10**12 + 1}), "<= 1000000000000"),
        (body(counts={"output_tokens": 10**400}), "int"),
        (body(counts={"busy_s": float("nan")}), "malformed"),
        (body(counts={"busy_s": float("inf")}), "malformed"),
        (body(counts={"busy_s": -0.1}), ">= 0"),
        (body(counts={"busy_s": 1e7}), "<="),
        (body(seq=-1), "seq"),
        (body(seq=2**63), "seq"),
        (body(seq=None), "`seq`"),
        (body(sender=""), "sender"),
        (body(model=""), "model"),
        (body(tenant="x" * 10_000), f"length <= {MAX_NAME_CHARACTERS}"),
        (body(tenant="a\nb"), "tenant"),
        (body(running=-1), "running"),
        (body(counts=None), "either `counts` or `totals`"),
        (body(totals={}, life="a"), "either `counts` or `totals`"),
        (body(counts=None, totals={}), "`life`"),
        (body(life="a"), "`life`"),
        (body(**{"from": 2, "to": 1}), "later"),
        (body(**{"from": "yesterday"}), "from"),
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"7", "Expected"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 50_000, ""),
        (body()[:-1] + b', "seq": "x"}', "seq"),
        (b"[" + body() + b"," + body(seq=-1) + b"]", "$[1].seq"),
    ],
)
def test_what_is_refused(told: bytes, words: str) -> None:
    with pytest.raises(BadMessage) as error:
        messages_of(told)
    assert words in str(error.value)
    assert len(str(error.value)) < 300


@given(st.binary(max_size=200))
def test_rubbish_is_refused_and_nothing_worse(told: bytes) -> None:
    try:
        assert isinstance(messages_of(told), list)
    except BadMessage as error:
        assert str(error)
