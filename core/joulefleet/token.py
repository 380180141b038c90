"""An agent's token: lets a server write as itself and as no other, and is checked without a table.

Form: `jf1.<key id>.<generation>.<expiry>.<MAC>`, where expiry is in seconds since 1970 (0 for never) and the MAC is
HMAC-SHA256 over "joulefleet agent|<server>|jf1.<key id>.<generation>.<expiry>" with the fleet's key, base64url without
padding. Two keys may be valid at once, so that a key can be changed; a generation that has become too low is refused,
so that one server's token can be withdrawn.
"""

import base64
import hashlib
import hmac
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from joulefleet.config import ConfigError

FORM = re.compile(r"jf1\.([A-Za-z0-9_-]{1,32})\.(\d{1,9})\.(\d{1,12})\.([A-Za-z0-9_-]{43})", re.ASCII)
KEY_BYTES = 32
NOT_KNOWN = ("no_token", "malformed_token", "unknown_key", "expired_token")
"""Refusals that another token of the same server would mend: HTTP 401; the others are 403."""


class TokenRefused(Exception):
    """A token that does not let this server write. The text never holds the token."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        """`no_token`, `malformed_token`, `unknown_key`, `wrong_token`, `expired_token`, `withdrawn_token`."""
        self.reason = reason
        super().__init__(code, reason)

    def __str__(self) -> str:
        return self.reason


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """What a collector or relay knows: keys by id, and the least valid generation by server (1 where none is named)."""

    keys: Mapping[str, bytes]
    least_generation: Mapping[str, int] = {}


class KeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fleet's keys by id, as hexadecimal digits, and the least valid generation by server."""

    keys: dict[str, str]
    least_generation: dict[str, int] = {}


def load_keys(path: Path) -> Keys:
    """The key file. Raises ConfigError, which never tells a key."""
    try:
        found = msgspec.convert(tomllib.loads(path.read_text(encoding="ascii")), KeyFile)
        keys = {key_id: bytes.fromhex(text) for key_id, text in found.keys.items()}
    except OSError as error:
        raise ConfigError(str(path), "", f"the keys cannot be read: {error.strerror}") from None
    except (ValueError, msgspec.ValidationError):
        raise ConfigError(str(path), "keys", "expected ids with hexadecimal digits, and least_generation") from None
    if not keys or any(len(key) < KEY_BYTES for key in keys.values()):
        raise ConfigError(str(path), "keys", f"expected at least one key of {KEY_BYTES} bytes")
    return Keys(keys=keys, least_generation=found.least_generation)


def mint(key_id: str, key: bytes, server: str, generation: int = 1, expires_s: int = 0) -> str:
    """A token for this server. Raises ValueError for a key id that a token cannot name."""
    head = f"jf1.{key_id}.{generation}.{expires_s}"
    token = f"{head}.{_mac(key, server, head)}"
    if not FORM.fullmatch(token):
        raise ValueError(f"key id {key_id!r}: letters, digits, '_' and '-', at most 32 of them")
    return token


def check(token: str, server: str, known: Keys, now_s: float) -> None:
    """Let this server write, or raise TokenRefused."""
    if not token:
        raise TokenRefused("no_token", "a token is needed: `joulefleet collector token SERVER` makes one")
    found = FORM.fullmatch(token)
    if not found:
        raise TokenRefused("malformed_token", "this is not a token of a JouleFleet agent")
    key = known.keys.get(found[1])
    if key is None:
        raise TokenRefused("unknown_key", f"the token's key {found[1]!r} is not known here")
    if not hmac.compare_digest(_mac(key, server, token.rpartition(".")[0]), found[4]):
        raise TokenRefused("wrong_token", f"the token is not one of server {server!r}")
    if int(found[3]) and now_s >= int(found[3]):
        raise TokenRefused("expired_token", f"the token of server {server!r} has expired")
    if int(found[2]) < known.least_generation.get(server, 1):
        raise TokenRefused("withdrawn_token", f"the token of server {server!r} was withdrawn")


def _mac(key: bytes, server: str, head: str) -> str:
    digest = hmac.new(key, f"joulefleet agent|{server}|{head}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
