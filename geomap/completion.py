"""Shell completion of `geomap`: names of commands without loading one, options of a command by loading it.

The shell asks by running `geomap` with the variable _GEOMAP_COMPLETE set, by a script of typer's.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer._completion_shared import get_completion_script, install
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from geomap.cli import COMMANDS, CommandError

VARIABLE = "_GEOMAP_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
OPTIONS = ("--install-completion", "--show-completion")


class Commands(TyperGroup):
    """Every command of `geomap`, by name and help; its module is loaded when its options are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        """A stand-in with the name and the help of a command."""
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1]) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command itself that arguments begin with."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and name in COMMANDS:
            command = get_command(importlib.import_module(COMMANDS[name][0]).app)
        return name, command, rest


app = typer.Typer(cls=Commands)


@app.callback()
def geomap(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Maps of species from records and imagery."""


def answer() -> int:
    """Print what the shell may put next, as it asks by environment variables; the exit code."""
    try:
        get_command(app).main(args=[], prog_name="geomap", standalone_mode=False)
    except SystemExit as stop:  # how typer ends an answer
        return int(stop.code or 0)
    return 0


def set_up(args: Sequence[str]) -> int:
    """Run `geomap --install-completion [SHELL]` or `geomap --show-completion [SHELL]`.

    Args:
        args: The option, and the name of a shell; that of $SHELL when left out.

    Returns:
        0.

    Raises:
        CommandError: The shell is none of `SHELLS`, or there are more arguments.
    """
    option, *rest = args
    shell = rest[0] if rest else Path(os.environ.get("SHELL", "")).name
    if len(rest) > 1 or shell not in SHELLS:
        found = " ".join(rest) or f"the shell {shell!r} (from $SHELL)"
        raise CommandError(f"cannot run geomap {option}", found, f"Give one of: {', '.join(SHELLS)}.")
    if option == "--show-completion":
        typer.echo(get_completion_script(prog_name="geomap", complete_var=VARIABLE, shell=shell))
        return 0
    _, path = install(shell, "geomap", VARIABLE)
    typer.echo(f"Completion for {shell} is in {path}; a new shell knows it.")
    return 0
