"""Reads passwords and tokens from files and from the agent's environment, and keeps them out of what is told."""

from collections.abc import Iterable
from pathlib import Path

from joulefleet import ConfigError

HIDDEN = "***"
SHORTEST = 4
"""Characters of what is hidden: less is no secret, and stands everywhere."""


def secret(path: str, where: str, key: str) -> str:
    """The one line in a file. Raises ConfigError, which never tells what is in it."""
    try:
        text = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise ConfigError(where, key, f"{path} cannot be read: {reason}") from None
    if not text or not text.isprintable():
        raise ConfigError(where, key, f"{path} holds no line, or more than one")
    return text


def hidden(text: str, secrets: Iterable[str]) -> str:
    """A text in which these do not stand any more."""
    for one in secrets:
        text = text.replace(one, HIDDEN) if len(one) >= SHORTEST else text
    return text
