"""README and docs are held to the code: what they name exists, and what exists is named."""

import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

import click
import pytest

from joulefleet.cli import main
from joulefleet.config import typed
from joulefleet_agent.config import AgentConfig, check
from joulefleet_agent.sources import installed, tried_of
from joulefleet_collector.app import make_app
from joulefleet_collector.ingest import Ingest
from joulefleet_collector.store.store import Account, Store

ROOT = Path(__file__).parents[1]
COLLECTOR = ROOT / "collector/joulefleet_collector"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(group: click.Group, words: tuple[str, ...] = ()) -> list[str]:
    context = click.Context(group)
    out = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        path = (*words, name)
        out += commands(command, path) if isinstance(command, click.Group) else [" ".join(path)]
    return out


@pytest.mark.parametrize("command", [one for one in commands(main) if one != "agent demo"])
def test_every_command_is_in_the_readme(command: str) -> None:
    first, _, rest = command.partition(" ")
    assert re.search(rf"`joulefleet {first}\b[^|]*\b{re.escape(rest)}", README), command


def test_every_source_is_in_the_readme_and_none_that_is_not_there() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert named == {point.name for point in entry_points(group="joulefleet.sources")}


def test_how_far_a_source_was_tried_is_what_its_module_says() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\w ]+) \|$", README, re.MULTILINE))
    assert rows == {name: tried_of(name) for name in installed()}
    assert set(rows.values()) <= {"on hardware", "faithful fake", "from documents", "simulated"}


def test_the_configuration_of_the_readme_is_one() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    config = typed(tomllib.loads(text), AgentConfig, "README.md")
    check(config, "README.md")
    assert config.name == "gpu-17"


def test_every_warning_is_explained_and_none_that_is_not_given() -> None:
    tellers = [COLLECTOR / "warnings.py", COLLECTOR / "answer/notices.py"]
    given = [code for path in tellers for code in re.findall(r'"code": "(\w+)"', path.read_text("utf-8"))]
    explained = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "docs/report.md").read_text("utf-8").split("## Warnings")[1], re.M
    )
    assert set(explained) == set(given)


def test_every_route_and_every_code_is_in_the_page_of_the_interface_and_no_other() -> None:
    page = (ROOT / "docs/api.md").read_text("utf-8")
    store = cast("Store", None)
    app = make_app(store, Ingest(store, cast("Account", None), lambda: 0), lambda: 0)
    routes = {f"{one.method} {one.resource.canonical}" for one in app.router.routes() if one.resource}
    named = set(re.findall(r"`((?:GET|POST|DELETE) [^`]+)`", page.split("## Asking")[0]))
    assert named == {route for route in routes if not route.startswith("HEAD")}
    codes = page.split("| code of")[1].split("## The stream")[0]
    refused = [(COLLECTOR / f"{name}.py").read_text("utf-8") for name in ("judge", "sorting", "ingest")]
    given = {code for text in refused for code in re.findall(r'(?:Refused\(|code=)"(\w+)"', text)}
    assert {code for line in re.findall(r"(?m)^\| (`[^|]*)\|", codes) for code in re.findall(r"`(\w+)`", line)} == given


def test_every_file_that_the_documents_link_to_exists() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_every_module_has_its_test() -> None:
    wings = {"core": "joulefleet", "agent": "joulefleet_agent", "collector": "joulefleet_collector"}
    wings["plugins"] = "joulefleet_plugins"
    missing = [
        str(module.relative_to(ROOT))
        for wing, package in wings.items()
        for module in (ROOT / wing / package).rglob("*.py")
        if module.name not in ("__init__.py", "__main__.py")
        and not list((ROOT / "tests" / wing).rglob(f"test_{module.stem}.py"))
        and module.relative_to(ROOT / wing / package).as_posix() not in COVERED_ELSEWHERE
    ]
    assert not missing


# Declarations only, tested where they are used; and the parts of a whole that is tested as one: windows accounted many
# at once against the definition (test_accounting.py), and what waits for the store through the store (test_store.py).
COVERED_ELSEWHERE = {
    *("describe.py", "reading.py", "source.py", "rows.py", "sheet.py"),
    *(f"account/{name}.py" for name in ("group", "numbers", "plan", "side_by_side", "skim")),
    *("sorting.py", "store/pending.py", "store/sums.py"),
}
