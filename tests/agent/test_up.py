"""The parts of `joulefleet up`: its processes, the agent's config that it writes, the figures that it prints."""

import json
import tomllib
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from joulefleet_agent.config import SourceConfig
from joulefleet_agent.up import text_of, toml_of

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1)


@given(NAMES, NAMES)
def test_the_agents_config_says_what_it_was_told(folder: str, page: str) -> None:
    sources = [
        SourceConfig("nvml", {}),
        SourceConfig("openmetrics", {"url": page}),
        SourceConfig("found", {"skip": [8]}),
    ]
    told = tomllib.loads(toml_of(Path(folder), "http://127.0.0.1:1", sources))
    assert told == {
        "step_s": 10,
        "spool": str(Path(folder) / "spool.db"),
        "collector": {"url": "http://127.0.0.1:1"},
        "sources": [{"use": "nvml"}, {"use": "openmetrics", "url": page}, {"use": "found", "skip": [8]}],
    }


ENTRY = {"boundary": "server", "metered_j": 6.0, "covered_s": 2.0, "window_s": 2.0, "joules_by_grade": {"counter": 6.0}}


def answer(*servers: str) -> dict[str, Any]:
    return {"ledger": [{"server": one, "simulated": False, **ENTRY} for one in servers], "rows": []}


def test_nothing_is_printed_while_there_are_no_figures() -> None:
    assert (text_of(answer(), json_=False), text_of(answer(), json_=True)) == ("", "")


def test_several_lines_are_set_off_from_the_next_ones() -> None:
    line = "3.0 W, 6 J in 2 s, boundary server, counter"
    assert text_of(answer("a"), json_=False) == f"a: {line}"
    assert text_of(answer("a", "b"), json_=False) == f"a: {line}\nb: {line}\n"


def test_as_json_it_is_the_answer_in_one_line() -> None:
    text = text_of(answer("a", "b"), json_=True)
    assert json.loads(text) == answer("a", "b")
    assert "\n" not in text
