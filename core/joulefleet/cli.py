"""The `joulefleet` command: finds its sub-commands by entry point, so that no server loads what it does not use."""

from importlib.metadata import entry_points

import click

COMMANDS = "joulefleet.commands"


class Mendable(click.ClickException):
    """An error that its reader can mend: one sentence, and exit code 2."""

    exit_code = 2

    def __init__(self, error: Exception | str) -> None:
        super().__init__(_sentence(error))


def _sentence(error: Exception | str) -> str:
    """What it says; of an error of the system the file and the reason, without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


class ByEntryPoint(click.Group):
    """A group whose commands are loaded when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands of the installed parts."""
        return sorted(point.name for point in entry_points(group=COMMANDS))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; its module is imported now."""
        for point in entry_points(group=COMMANDS, name=cmd_name):
            try:
                command = point.load()
            except ModuleNotFoundError as error:
                return _not_installed(cmd_name, error.name)
            if isinstance(command, click.Command):
                return command
        return None


def _not_installed(name: str, package: str | None) -> click.Command:
    """Stands in the list of commands for one that cannot be loaded here, and says so when it is called."""
    reason = f"needs the package '{package}': pip install 'joulefleet[collector]'"

    def refuse() -> None:
        raise click.ClickException(f"'{name}' {reason}")

    return click.Command(
        name,
        callback=refuse,
        short_help=f"({reason})",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


@click.command(cls=ByEntryPoint, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="joulefleet")
def main() -> None:
    """Measure what every inference costs in energy, on every server of a mixed fleet."""
