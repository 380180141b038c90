"""Where a person's own commands keep things: the state folder of the XDG convention."""

import os
from pathlib import Path


def state_dir() -> Path:
    """`$XDG_STATE_HOME/joulefleet`, by default `~/.local/state/joulefleet`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "joulefleet"
