"""Who may write, read and operate: agents, readers and operators by their tokens; this machine may always read."""

import hmac
import ipaddress
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec

from joulefleet.config import ConfigError
from joulefleet.delivery import Batch
from joulefleet.token import KEY_BYTES, NOT_KNOWN, Keys, TokenRefused, check, load_keys, mint
from joulefleet.units import ns_to_s

NEW_KEY_ID = "k1"
SHORTEST_SECRET = 16
SECONDS_A_DAY = 86_400


class Refused(Exception):
    """A request that its sender may not make."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(status, reason)

    def __str__(self) -> str:
        return self.reason


class _Writer(msgspec.Struct):
    server: str = ""


class Gate:
    """Lets agents write as themselves. Without keys everyone may write: then only this machine reaches the port."""

    def __init__(
        self, keys: Keys | None, read_token: str, now_s: Callable[[], float], operator_token: str = ""
    ) -> None:
        self._keys = keys
        self._read_token = read_token
        self._now_s = now_s
        self._operator_token = operator_token

    def admit(self, token: str, batch: Batch, as_json: bool) -> None:
        """Let this batch in, or raise Refused: all its windows must be of the server whose token this is."""
        if self._keys is None:
            return
        for server in sorted({_server(body, as_json) for body in batch.windows}) or [""]:
            try:
                check(token, server, self._keys, self._now_s())
            except TokenRefused as refused:
                raise Refused(401 if refused.code in NOT_KNOWN else 403, str(refused)) from refused

    def connect(self, token: str) -> None:
        """Let a stream be opened, or raise Refused; whose token it is shows with the first batch."""
        if self._keys is not None and not token:
            raise Refused(401, "a token is needed: `joulefleet collector token SERVER` makes one")

    def read(self, token: str, peer: str) -> None:
        """Let this request read, or raise Refused. This machine may always, and who operates may read."""
        if self._keys is None or _is_here(peer):
            return
        if not (_equal(token, self._read_token) or _equal(token, self._operator_token)):
            raise Refused(401, "reading from another machine needs the token of `auth.read_token_file`")

    def operate(self, token: str) -> None:
        """Let this request change what everybody sees of the fleet, or raise Refused.

        Where there are keys this machine needs the token too: it has users who may read and no more, and a proxy on
        it would lend its place to everyone.
        """
        if self._keys is not None and not _equal(token, self._operator_token):
            raise Refused(401, "this needs the token of `auth.operator_token_file`; a reader's does not do")


OPEN = Gate(None, "", lambda: 0.0)
"""For a collector that only this machine reaches."""


def bearer(header: str | None) -> str:
    """The token of an Authorization header; empty where there is none."""
    scheme, _, token = (header or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def new_token(server: str, key_file: Path, generation: int, days: int | None, now_ns: int) -> tuple[str, str, int]:
    """A token for this server by the last key of the file, which is made where it is missing.

    Returns the token, the key's id, and when it expires in seconds since 1970, 0 for never. Raises ConfigError.
    """
    try:
        make_key_file(key_file)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(str(key_file), "", f"cannot be made: {error.strerror}") from error
    key_id, key = list(load_keys(key_file).keys.items())[-1]
    expires_s = 0 if days is None else round(ns_to_s(now_ns)) + days * SECONDS_A_DAY
    return mint(key_id, key, server, generation, expires_s), key_id, expires_s


def make_key_file(path: Path) -> None:
    """A new key, in a file that only its owner can read. Raises FileExistsError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(f'[keys]\n{NEW_KEY_ID} = "{secrets.token_hex(KEY_BYTES)}"\n\n[least_generation]\n')


def _server(body: msgspec.Raw, as_json: bool) -> str:
    """The server that a window names; empty where it names none, which no token fits."""
    try:
        read = msgspec.json.decode if as_json else msgspec.msgpack.decode
        return read(body, type=_Writer).server
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return ""


def _equal(token: str, secret: str) -> bool:
    """Whether it is this secret, compared in constant time; where none is set no token is."""
    return bool(secret) and hmac.compare_digest(token.encode(errors="surrogateescape"), secret.encode())


def _is_here(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False
