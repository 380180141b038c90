"""Profiles that come with us are whole and honest; a user's own is a file."""

from pathlib import Path

import pytest

from joulefleet.config import ConfigError
from joulefleet_plugins.meters.profile import label, load_profile, shipped

OWN = """
name = "Example NPU"
hw_model = "NPU-1"
max_power_w = 120
cards = 4
confidence = "low"
basis = "vendor's web page"
"""


def test_the_chips_without_an_interface_have_a_profile() -> None:
    assert {"groq-lpu", "positron-atlas", "maia-100", "maia-200", "gaudi-2", "gaudi-3"} <= set(shipped())


@pytest.mark.parametrize("name", shipped())
def test_a_profile_says_what_its_figures_rest_on(name: str) -> None:
    profile = load_profile(name, "test")
    assert profile.name
    assert len(profile.basis) > 10
    assert profile.max_power_w or "as said in the agent's config" in profile.basis
    assert profile.confidence != "high" or "press" not in profile.basis
    assert profile.kind == "server" or profile.hw_model


def test_a_file_of_a_user_is_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "npu-1.toml"
    path.write_text(OWN)
    profile = load_profile(str(path), "test")
    assert (profile.name, profile.max_power_w, profile.cards, profile.route) == ("Example NPU", 120, 4, {})
    assert label(str(path)) == "npu-1"
    assert label("groq-lpu") == "groq-lpu"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OWN.replace("basis", "bases"), "bases"),
        (OWN.replace("120", "-1"), "max_power_w"),
        (OWN.replace('"low"', '"sure"'), "confidence"),
        ("not toml", "not TOML"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "npu-1.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as raised:
        load_profile(str(path), "test")
    assert str(path) in str(raised.value)


def test_a_name_that_is_none_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no profile is named 'groq'; there are .*groq-lpu"):
        load_profile("groq", "source declared")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_profile("/no/such/file.toml", "source declared")
