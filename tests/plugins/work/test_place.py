"""Where an engine runs: what a config may say, and what an engine then declares."""

from typing import Any

import pytest

from joulefleet.config import ConfigError, typed
from joulefleet.describe import Engine, Reservation
from joulefleet_plugins.work.place import Place, placed


def place(**keys: Any) -> Place:
    return typed(keys, Place, "here")


def test_nothing_said_is_the_whole_server_and_an_engine_of_its_own() -> None:
    assert Engine(id="e", software="s", **placed(place())._asdict()) == Engine(id="e", software="s")


def test_all_that_is_said_is_declared() -> None:
    keys = {"hardware": "chip-1", "group": "g", "group_size": 2, "phase": "prefill", "unit": "a.service"}
    said = place(devices=["a", {"meter": "b", "share": 0.25}], **keys)
    engine = Engine(id="e", software="s", **placed(said)._asdict())
    assert engine.devices == (Reservation("a"), Reservation("b", 250_000))
    assert {name: getattr(engine, name) for name in keys} == keys


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"devices": ["a", {"meter": "a"}]}, "twice"),
        ({"devices": [{"meter": "a", "share": 0}]}, "share"),
        ({"group_size": 2}, "without a `group`"),
        ({"group": "g", "group_size": -1}, "group_size"),
        ({"phase": "both"}, "phase"),
    ],
)
def test_what_no_engine_can_be_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        place(**keys)
