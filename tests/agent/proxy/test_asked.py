"""What a request asks, and how little of it is changed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet_agent.proxy.asked import ROUTES, Asked, asked_of, route_of

CHAT, OLLAMA = ROUTES[0], ROUTES[4]


def asked(**members: Any) -> Asked:
    return asked_of(CHAT, json.dumps({"model": "m", **members}).encode())


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("POST", "/v1/chat/completions", "/v1/chat/completions"),
        ("POST", "/openai/v1/chat/completions", "/v1/chat/completions"),
        ("POST", "/v1/completions", "/v1/completions"),
        ("POST", "/api/generate", "/api/generate"),
        ("GET", "/v1/chat/completions", None),
        ("POST", "/v1/responses/resp_1/cancel", None),
        ("POST", "/v1/chat/completions/", None),
    ],
)
def test_which_requests_are_counted(method: str, path: str, found: str | None) -> None:
    route = route_of(method, path)
    assert (route and route.path) == found


def test_the_option_is_added_where_it_is_missing() -> None:
    for options in ({}, {"stream_options": None}, {"stream_options": {"include_usage": False}}):
        told = asked(stream=True, **options)
        assert json.loads(told.with_usage) == {
            "model": "m",
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    kept = asked(stream=True, stream_options={"include_obfuscation": False})
    assert json.loads(kept.with_usage)["stream_options"] == {"include_obfuscation": False, "include_usage": True}


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"stream": False},
        {"stream": "yes"},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream": True, "stream_options": {"continuous_usage_stats": True}},
        {"stream": True, "stream_options": 7},
    ],
)
def test_it_is_not_added_elsewhere(members: dict[str, Any]) -> None:
    assert asked(**members).with_usage == b""


def test_ollama_needs_no_option() -> None:
    assert asked_of(OLLAMA, b'{"model":"m","stream":true}') == Asked("m", b'{"model":"m","stream":true}', b"")


def test_values_keep_every_byte() -> None:
    body = b'{ "model":"m" , "seed": 12345678901234567890123 ,"temperature":1.0E+00,"x":"\\u00e9\\/", "stream":true }'
    told = asked_of(CHAT, body).with_usage
    for value in (b"12345678901234567890123", b"1.0E+00", b'"\\u00e9\\/"'):
        assert value in told


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b'{"model":7}', b'{"model":"m","stream":tru}', b"[" * 9999]
)
def test_what_cannot_be_read_is_passed_as_it_is(body: bytes) -> None:
    assert asked_of(CHAT, body) == Asked("", body, b"")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_nothing_but_the_option_changes(members: dict[str, Any]) -> None:
    members = {**members, "stream": True, "stream_options": None}
    told = json.loads(asked_of(CHAT, json.dumps(members).encode()).with_usage)
    assert told == {**members, "stream_options": {"include_usage": True}}
