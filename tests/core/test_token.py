"""Tokens: a server writes as itself, and nothing else lets anyone write as it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulefleet.config import ConfigError
from joulefleet.token import Keys, TokenRefused, check, load_keys, mint

KEY, OTHER = b"k" * 32, b"o" * 32
KNOWN = Keys(keys={"2026": KEY}, least_generation={"gpu-2": 3})


def refused(token: str, server: str = "gpu-1", known: Keys = KNOWN, now_s: float = 1_000) -> str:
    with pytest.raises(TokenRefused) as caught:
        check(token, server, known, now_s)
    assert not token or token not in str(caught.value)
    return caught.value.code


@given(st.text(min_size=1, max_size=50), st.integers(1, 999_999_999), st.integers(0, 10**12 - 1))
def test_a_token_lets_its_server_write_and_no_other(server: str, generation: int, expires_s: int) -> None:
    known = Keys(keys={"2026": KEY})
    token = mint("2026", KEY, server, generation, expires_s)
    check(token, server, known, expires_s - 1 if expires_s else 10**12)
    assert refused(token, server + "x", known) == "wrong_token"


def test_each_way_to_be_refused() -> None:
    assert refused("") == "no_token"
    assert refused("Bearer x") == "malformed_token"
    assert refused(mint("2025", KEY, "gpu-1")) == "unknown_key"
    assert refused(mint("2026", OTHER, "gpu-1")) == "wrong_token"
    assert refused(mint("2026", KEY, "gpu-1", expires_s=1_000)) == "expired_token"
    assert refused(mint("2026", KEY, "gpu-2", generation=2), "gpu-2") == "withdrawn_token"
    check(mint("2026", KEY, "gpu-2", generation=3), "gpu-2", KNOWN, 0)


def test_two_keys_are_valid_while_one_takes_over() -> None:
    both = Keys(keys={"old": OTHER, "new": KEY})
    for key_id, key in both.keys.items():
        check(mint(key_id, key, "a"), "a", both, 0)


@given(st.data())
def test_a_token_with_any_character_changed_is_refused(data: st.DataObject) -> None:
    token = mint("2026", KEY, "gpu-1", 1, 5_000)
    k = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda one: one != token[k]))
    changed = token[:k] + other + token[k + 1 :]
    with pytest.raises(TokenRefused):
        check(changed, "gpu-1", KNOWN, 0)


def test_a_key_id_that_cannot_be_named() -> None:
    with pytest.raises(ValueError, match="key id"):
        mint("a.b", KEY, "gpu-1")


def test_the_keys_of_a_file_and_the_least_generations(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(f'[keys]\nk1 = "{KEY.hex()}"\n\n[least_generation]\n"gpu-2" = 3\n')
    assert load_keys(path) == Keys(keys={"k1": KEY}, least_generation={"gpu-2": 3})


@pytest.mark.parametrize(
    "text", ["", "[keys]\n", '[keys]\na = "zz"\n', '[keys]\na = "abcd"\n', "keys = 1\n", "=", "[x]\n"]
)
def test_a_bad_key_file_is_named_and_not_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_keys(path)
    assert "keys.toml" in str(caught.value)
    assert "abcd" not in str(caught.value)


def test_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_keys(tmp_path / "none.toml")
