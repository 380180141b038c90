"""Whose request it is: a tenant's name from the API key that came with it. The key is never kept, told or logged.

A key that the operator has named is its tenant. Any other is `key-` and twelve hexadecimal digits of its HMAC-SHA256
with a salt that only this proxy has: the same key is the same tenant, and no name can be tried against lists of keys
by who has not the salt. Without a key a header may name the tenant.
"""

import hashlib
import hmac
import os
import secrets
import stat
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from joulefleet.config import ConfigError

KEY_HEADERS = ("Authorization", "x-api-key", "api-key")
SALT_BYTES = 32
DIGITS = 12
DIGEST = "sha256:"
"""What a key's SHA-256 in hexadecimal digits begins with where it stands for the key in the file of tenants."""
CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Where systemd puts what LoadCredential= names: the service alone may read it, by an ACL that shows as the group's."""


class TenantFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tenants by API key, or by `sha256:` and the digits of the key's SHA-256."""

    tenants: dict[str, str]


class Tenants:
    """Names the tenant of a request."""

    def __init__(self, salt: bytes, named: Mapping[bytes, str], header: str = "") -> None:
        """`named` holds tenants by the SHA-256 of their keys; `header` names the tenant of a request without a key."""
        self._salt, self._named, self._header = salt, named, header

    def of(self, headers: Mapping[str, str]) -> str:
        """The tenant of a request with these headers, whose names may be in any case; empty where nothing tells it."""
        key = key_of(headers)
        if not key:
            return headers.get(self._header, "") if self._header else ""
        name = self._named.get(hashlib.sha256(key).digest())
        return hashed(key, self._salt) if name is None else name


def key_of(headers: Mapping[str, str]) -> bytes:
    """The API key of a request; empty where it has none."""
    for name in KEY_HEADERS:
        value = headers.get(name, "").strip()
        if value:
            scheme, _, rest = value.partition(" ")
            return (rest.strip() if scheme.lower() == "bearer" else value).encode("utf-8", "surrogateescape")
    return b""


def hashed(key: bytes, salt: bytes) -> str:
    """The name of a key that nobody named."""
    return f"key-{hmac.new(salt, key, hashlib.sha256).hexdigest()[:DIGITS]}"


def load_tenants(path: Path, environ: Mapping[str, str] = os.environ) -> dict[bytes, str]:
    """The file of tenants, by the SHA-256 of each key. Raises ConfigError, which never tells a key."""
    is_credential = bool(environ.get(CREDENTIALS)) and Path(environ[CREDENTIALS]) in path.parents
    others = stat.S_IRWXO if is_credential else stat.S_IRWXO | stat.S_IRWXG
    try:
        if path.stat().st_mode & others:
            raise ConfigError(str(path), "", "others may read the keys in it: chmod 600")
        named = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), TenantFile).tenants
    except OSError as error:
        raise ConfigError(str(path), "", f"the tenants cannot be read: {error.strerror}") from None
    except (ValueError, msgspec.ValidationError):
        raise ConfigError(str(path), "tenants", 'expected a table of tenants by key: "sha256:..." = "red"') from None
    return {_digest(str(path), key): tenant for key, tenant in named.items()}


def _digest(where: str, key: str) -> bytes:
    if not key.startswith(DIGEST):
        return hashlib.sha256(key.encode()).digest()
    with suppress(ValueError):
        digest = bytes.fromhex(key.removeprefix(DIGEST))
        if len(digest) == hashlib.sha256().digest_size:
            return digest
    raise ConfigError(where, "tenants", f"expected 64 hexadecimal digits after '{DIGEST}'")


def kept_salt(path: Path) -> bytes:
    """The salt in this file, which is made where there is none. Raises ConfigError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return _salt_in(path)
        _make(path)
        return _salt_in(path)
    except OSError as error:
        raise ConfigError(str(path), "", f"the salt of tenants' names cannot be kept: {error.strerror}") from error


def _salt_in(path: Path) -> bytes:
    with suppress(ValueError):
        salt = bytes.fromhex(path.read_text(encoding="ascii"))
        if len(salt) == SALT_BYTES:
            return salt
    raise ConfigError(str(path), "", "this is no salt: remove it, and tenants without a name get new ones")


def _make(path: Path) -> None:
    """Whole or not at all, and the first of several that do so at once stays."""
    made = path.with_name(f"{path.name}.{os.getpid()}")
    file = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(file, "w", encoding="ascii") as out:
        out.write(secrets.token_hex(SALT_BYTES))
        out.flush()
        os.fsync(file)
    with suppress(FileExistsError):
        os.link(made, path)
    made.unlink()
