"""Who may write and who may read."""

import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from joulefleet.delivery import Batch
from joulefleet.token import Keys, load_keys, mint
from joulefleet_collector.auth import Gate, Refused, bearer, make_key_file

KEY = b"k" * 32
KEYS = Keys(keys={"k1": KEY}, least_generation={"old": 2})
TOKEN = mint("k1", KEY, "a")


def gate(read_token: str = "", operator_token: str = "") -> Gate:
    return Gate(KEYS, read_token, lambda: 1_000, operator_token)


def batch(*bodies: bytes) -> Batch:
    return Batch(windows=[msgspec.Raw(body) for body in bodies])


def refused(act: Any, *arguments: Any) -> int:
    with pytest.raises(Refused) as caught:
        act(*arguments)
    assert TOKEN not in str(caught.value)
    return caught.value.status


def test_a_server_writes_as_itself(a_window: Any) -> None:
    mine, other = a_window("a"), a_window("b")
    gate().admit(TOKEN, batch(mine.encode()), False)
    gate().admit(TOKEN, batch(mine.encode_json(), mine.encode_json()), True)
    assert refused(gate().admit, TOKEN, batch(other.encode()), False) == 403
    assert refused(gate().admit, TOKEN, batch(mine.encode(), other.encode()), False) == 403
    assert refused(gate().admit, TOKEN, batch(mine.encode(), b"\x80"), False) == 403
    assert refused(gate().admit, TOKEN, batch(mine.encode(), b"nonsense"), False) == 403


@pytest.mark.parametrize("token", ["", "nonsense", mint("k2", KEY, "a"), mint("k1", KEY, "a", expires_s=1_000)])
def test_a_token_that_is_not_known_here_is_401(token: str, a_window: Any) -> None:
    assert refused(gate().admit, token, batch(a_window("a").encode()), False) == 401


def test_a_token_that_was_withdrawn_is_403(a_window: Any) -> None:
    assert refused(gate().admit, mint("k1", KEY, "old"), batch(a_window("old").encode()), False) == 403
    gate().admit(mint("k1", KEY, "old", generation=2), batch(a_window("old").encode()), False)


def test_an_empty_batch_shows_no_server_and_needs_a_token() -> None:
    assert refused(gate().admit, "", batch(), False) == 401


def test_without_keys_everyone_on_this_machine_may(a_window: Any) -> None:
    open_gate = Gate(None, "", lambda: 0)
    open_gate.admit("", batch(a_window("a").encode()), False)
    open_gate.connect("")
    open_gate.read("", "10.0.0.1")
    open_gate.operate("")


def test_reading_from_elsewhere_needs_the_readers_token() -> None:
    gate().read("", "127.0.0.1")
    gate().read("", "::1")
    gate("reader").read("reader", "10.0.0.1")
    assert refused(gate("reader").read, TOKEN, "10.0.0.1") == 401
    assert refused(gate().read, "", "10.0.0.1") == 401
    assert refused(gate().read, "", "not an address") == 401


def test_operating_needs_the_operators_token_and_no_other_will_do() -> None:
    gate("reader", "operator").operate("operator")
    gate("reader", "operator").read("operator", "10.0.0.1")
    for token in ("", "reader", TOKEN, "operator\u00e4", "\udcff"):
        assert refused(gate("reader", "operator").operate, token) == 401
    for token in ("", "reader"):
        assert refused(gate("reader").operate, token) == 401


def test_a_stream_without_a_token_is_not_opened() -> None:
    assert refused(gate().connect, "") == 401
    gate().connect(TOKEN)


@pytest.mark.parametrize(("header", "token"), [("Bearer x", "x"), ("bearer  y ", "y"), ("Basic x", ""), (None, "")])
def test_bearer(header: str | None, token: str) -> None:
    assert bearer(header) == token


def test_a_key_file_is_made_once_for_its_owner_only_and_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    make_key_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    keys = load_keys(path)
    assert [len(key) for key in keys.keys.values()] == [32]
    with pytest.raises(FileExistsError):
        make_key_file(path)
