"""One way of running every command: arguments in, an exit code out, never a traceback for a user's mistake.

    geomap render --species "Eschscholzia californica"      # the same as python -m geomap.render ...

Exit codes: 0 done, 1 `geomap doctor` found something wrong, 2 refused (three lines on stderr: what, found,
change), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand
from typer.main import get_command

from geomap.errors import GeomapError, OutputError
from train.errors import ThreePartError

# name: (module with `app`, help). A module is imported only when its command is called, so --help is quick.
COMMANDS = {
    "render": ("geomap.render", "Render one cloud-optimised GeoTIFF per species."),
    "species": ("geomap.species", "List the species that can be rendered."),
    "records": ("geomap.records", "Check a table of records and say what would be dropped, and why."),
    "embed": ("geomap.embed", "Encode a grid's imagery into an embedding field."),
    "chips": ("geomap.chips", "Cut aerial chips around records, for training on them."),
    "fit": ("geomap.fit", "Fit species heads on records or surveys."),
    "predict": ("geomap.predict", "Predict species at points."),
    "serve": ("tiles.__main__", "Serve maps of species as tiles and as a web page."),
    "doctor": ("geomap.doctor", "Check that this machine, the installation and the bundle are in order."),
}
# Run as modules in place of this process: the map side does not load the tile server.
PROGRAMS = {"serve": "tiles"}
MANUAL = """
Options:
  --help                          Print this.
  --version                       Print the version.
  --install-completion [SHELL]    Complete commands and options in bash, zsh or fish; the shell of $SHELL
                                  when none is given.
  --show-completion [SHELL]       Print what that would install.

Examples:
  geomap species --search wren
  geomap render --species "Eschscholzia californica"
  geomap records mine.csv && geomap fit --records mine.csv --out heads/mine
  geomap serve --open
  geomap doctor

Exit codes:
  0    Done.
  1    geomap doctor found something wrong.
  2    Refused: what cannot be done, what was found and what to change stand on stderr.
  130  Stopped by Ctrl-C.

Environment:
  GEOMAP_BUNDLE    Folder of encoders, fields and heads in place of the shipped one.
  GEOMAP_TILES_*   Settings of geomap serve (docs/reference/tile-server.md).
  NO_COLOR         Set, it turns colours off; they are off where output is not a terminal, too."""

# What the operating system says when a place cannot be used, and what helps.
DISK_ERRORS = {
    errno.ENOSPC: "Free some space there, or choose another folder with --out.",
    errno.EDQUOT: "Free some of your quota there, or choose another folder with --out.",
    errno.EACCES: "Allow yourself to read and write there, or choose another path.",
    errno.EPERM: "Allow yourself to read and write there, or choose another path.",
    errno.EROFS: "The disk is read-only: choose another folder with --out.",
    errno.ENOTDIR: "A file stands where a folder is needed: choose another path.",
    errno.EISDIR: "A folder stands where a file is needed: choose another path.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
}


class CommandError(GeomapError, ValueError):
    """A command line that cannot be understood."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `geomap` console script: the first argument names the command, the rest is its own.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        The exit code.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if "_GEOMAP_COMPLETE" in os.environ:  # the shell asks what may come next
        from geomap.completion import answer

        return answer()
    if not args or args[0] in ("-h", "--help"):
        Console(stderr=not args).print(overview(), markup=False, highlight=False, soft_wrap=True)
        return 0 if args else 2
    if args[0] == "--version":
        Console().print(f"geomap {version('geomap')}", markup=False, highlight=False)
        return 0
    if args[0] in ("--install-completion", "--show-completion"):
        return set_up_completion(args)
    if args[0] not in COMMANDS:
        return refuse(unknown_command(args[0]))
    if args[0] in PROGRAMS:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", PROGRAMS[args[0]], *args[1:]])
    module = importlib.import_module(COMMANDS[args[0]][0])
    return run(module.app, args[1:], prog=f"geomap {args[0]}")


def run(app: typer.Typer, argv: Sequence[str] | None, prog: str | None = None) -> int:
    """Run a typer app of a single command.

    Args:
        app: The app; its command returns None.
        argv: Arguments without the program's name; those of the process when None.
        prog: The program's name in help texts; found from the process when None.

    Returns:
        0 when done, 2 when the command refused (said on stderr), 130 when stopped by Ctrl-C; the code of a
        command that ends with one of its own.

    Raises:
        OSError: Of a kind that is not about a place to read or write: a fault of ours, like all else.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    command = get_command(app)
    assert isinstance(command, TyperCommand), "an app of one command"
    # typer's own markup would swallow units in brackets: "resolution [m]".
    command.rich_markup_mode = "markdown"
    try:
        code = command.main(args=args, prog_name=prog, standalone_mode=False)
    except ThreePartError as error:
        return refuse(error)
    except typer.TyperException as error:
        return refuse(misused(error, prog))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        return refuse(disk_error(error))
    if code == 130:
        Console(stderr=True).print("Stopped.")
    return int(code or 0)


def refuse(error: ThreePartError) -> int:
    """Print what cannot be done, what was found and what to change on stderr, a line each; return 2."""
    lines = (
        ("Error", error.what, "bold red"),
        ("Found", error.found, ""),
        ("Change", error.change, ""),
    )
    console = Console(stderr=True, highlight=False)
    for label, text, style in lines:
        console.print(Text(f"{label}: {text}", style=style), soft_wrap=True)
    return 2


def set_up_completion(args: Sequence[str]) -> int:
    """Run `geomap --install-completion` or `--show-completion`; see `geomap.completion.set_up`."""
    from geomap.completion import set_up

    try:
        return set_up(args)
    except CommandError as error:
        return refuse(error)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        return refuse(disk_error(error))


def overview() -> str:
    """The help text of `geomap`: every command with its one line, options, examples and exit codes."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    usage = "Usage: geomap COMMAND [OPTIONS]      (geomap COMMAND --help says more)"
    return "\n".join([usage, "", "Commands:", *rows, MANUAL])


def unknown_command(name: str) -> CommandError:
    """The refusal of a command that does not exist, with the nearest one."""
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return CommandError(
        "cannot run geomap",
        f"no command {name!r}",
        f"Did you mean `geomap {near[0]}`?" if near else f"Choose one of: {', '.join(COMMANDS)}.",
    )


def misused(error: typer.TyperException, prog: str | None) -> CommandError:
    """A usage error of typer in three parts."""
    context = getattr(error, "ctx", None)
    name = context.command_path if context is not None else prog or "the command"
    return CommandError(f"cannot run {name}", error.format_message(), f"`{name} --help` lists what it takes.")


def disk_error(error: OSError) -> OutputError:
    """A refusal of the operating system (disk full, not writable, ...) in three parts."""
    assert error.errno is not None
    place = error.filename2 or error.filename or "the output"
    return OutputError(
        f"cannot use {os.fspath(place) if not isinstance(place, int) else 'the output'}",
        os.strerror(error.errno),
        DISK_ERRORS[error.errno],
    )


if __name__ == "__main__":
    sys.exit(main())
