"""Secrets come from files that hold nothing else, and never stand in what is told."""

import re
from collections.abc import Iterable
from pathlib import Path

from joulefleet.config import ConfigError

HIDDEN = "***"
SHORTEST = 4
"""Characters of what is hidden: less is no secret, and stands everywhere."""


def read_secret(path: str | Path, shortest: int = 1) -> str:
    """The one line in a file, of so many characters at least. Raises ConfigError, which never tells what is in it."""
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(str(path), "", f"the secret cannot be read: {reason}") from None
    if len(text) < shortest or not text.isprintable():
        raise ConfigError(str(path), "", f"expected a secret: one line of {shortest} characters or more")
    return text


def read_token(path: str | Path) -> str:
    """A secret that stands in a header: ASCII without blanks. Raises ConfigError as `read_secret`."""
    text = read_secret(path)
    if not re.fullmatch("[!-~]+", text):
        raise ConfigError(str(path), "", "expected a token: one line without blanks")
    return text


def hidden(text: str, secrets: Iterable[str]) -> str:
    """A text in which these do not stand any more."""
    for one in secrets:
        text = text.replace(one, HIDDEN) if len(one) >= SHORTEST else text
    return text
