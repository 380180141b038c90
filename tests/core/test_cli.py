"""The command finds what is installed, and says what is missing without failing itself."""

from importlib import invalidate_caches
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from joulefleet.cli import Mendable, main

PARTS = {
    "here_part.py": "import click\n@click.command()\n@click.argument('x')\ndef here(x):\n    '''Do it.'''\n"
    "    click.echo(f'did {x}')\n",
    "needy_part.py": "import surely_not_installed\n",
    "odd_part.py": "odd = 3\n",
    "part-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: part\nVersion: 1\n",
    "part-1.dist-info/entry_points.txt": "[joulefleet.commands]\na-here = here_part:here\n"
    "a-needy = needy_part:needy\nan-odd = odd_part:odd\n",
}


@pytest.fixture(autouse=True)
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another installed distribution, with commands of its own."""
    for name, text in PARTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="joulefleet")


def test_a_command_of_another_package_is_found() -> None:
    result = run("a-here", "it")
    assert (result.output, result.exit_code) == ("did it\n", 0)


def test_a_command_that_lacks_a_package_names_it() -> None:
    result = run("a-needy", "run", "--port", "1")
    assert result.exit_code == 1
    assert "'a-needy' needs the package 'surely_not_installed': pip install 'joulefleet[collector]'" in result.output


def test_help_lists_every_command_even_if_one_lacks_a_package() -> None:
    for argument in ("-h", "--help"):
        result = run(argument)
        assert result.exit_code == 0
        assert "a-here" in result.output
        assert "Do it." in result.output
        assert "a-needy" in result.output


def test_what_is_no_command() -> None:
    for name in ("surely-not-a-command", "an-odd"):
        result = run(name)
        assert result.exit_code == 2
        assert f"No such command '{name}'" in result.output


def test_the_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.startswith("joulefleet, version ")


def test_an_error_of_the_system_names_its_file_and_no_number(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        (tmp_path / "none").read_bytes()
    assert Mendable(raised.value).message == f"{tmp_path / 'none'}: No such file or directory"
    assert Mendable(OSError("no number")).message == "no number"
    assert Mendable("a sentence").message == "a sentence"
