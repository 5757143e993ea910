"""The reference of every command, from the commands themselves: usage, options, defaults, examples."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from md_text import code, plain
from typer.core import TyperArgument
from typer.main import get_command

from geomap.cli import COMMANDS, MANUAL
from train import evaluate, pretrain, pretrain_pair

MODULES = {"python -m geomap.bundle": "geomap.bundle"}  # commands that `geomap` does not list
PARSERS = {
    "python -m train.pretrain": pretrain,
    "python -m train.evaluate": evaluate,
    "python -m train.pretrain_pair": pretrain_pair,
}


@dataclass(frozen=True)
class Parameter:
    """An argument or option of a command."""

    names: tuple[str, ...]
    takes: str
    what: str
    default: str
    required: bool
    positional: bool
    repeated: bool


@dataclass(frozen=True)
class Command:
    """A command as its page says it."""

    name: str
    about: str
    parameters: tuple[Parameter, ...]
    epilog: str


def commands() -> list[Command]:
    """Every command of the three packages."""
    typed = {f"geomap {name}": module for name, (module, _) in COMMANDS.items()} | MODULES
    found = [
        of_typer(name, get_command(importlib.import_module(module).app)) for name, module in typed.items()
    ]
    return found + [of_argparse(name, module) for name, module in PARSERS.items()]


def of_typer(name: str, command: Any) -> Command:
    """A command of typer."""
    parameters = []
    for each in command.params:
        positional = isinstance(each, TyperArgument)
        flag = bool(getattr(each, "is_flag", False))
        default = each.default() if callable(each.default) else each.default
        shown = (
            ""
            if default is None or default is False or default in ((), []) or each.required
            else str(default)
        )
        names = (each.name,) if positional else (*each.opts, *each.secondary_opts)
        takes = "" if flag else each.metavar or kind_of(each.type_descriptor.annotation)
        what = (each.help or "") + limits(each)
        repeated = each.multiple and not positional
        parameters.append(Parameter(names, takes, what, shown, bool(each.required), positional, repeated))
    about = inspect.cleandoc(command.help or "")
    return Command(name, about, tuple(parameters), inspect.cleandoc(command.epilog or ""))


def kind_of(annotation: Any) -> str:
    """What a value of a type is called in a usage line."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "|".join(map(str, inner))
    if origin is not None:
        return kind_of(next(each for each in inner if each is not type(None)))
    return {"str": "text", "path": "path", "int": "number", "float": "number"}[annotation.__name__.lower()]


def limits(parameter: Any) -> str:
    """The least and greatest value in words."""
    if parameter.min is None and parameter.max is None:
        return ""
    ends = (
        f"At least {parameter.min:g}" if parameter.max is None else f"{parameter.min:g} to {parameter.max:g}"
    )
    return f" {ends}."


def of_argparse(name: str, module: Any) -> Command:
    """A command of argparse."""
    parser: argparse.ArgumentParser = module.parser()
    parameters = []
    for each in parser._actions:
        if isinstance(each, argparse._HelpAction):
            continue
        choices = "|".join(map(str, each.choices or ()))
        takes = "" if each.nargs == 0 else choices or str(each.metavar or kind_of(each.type or str))
        said = each.default is False or each.default in (None, "", []) or "default" in (each.help or "")
        positional = not each.option_strings
        parameters.append(
            Parameter(
                tuple(each.option_strings) or (each.dest,), takes, sentence(each.help or ""),
                "" if said else str(each.default), each.required or positional, positional,
                isinstance(each, argparse._AppendAction),
            )
        )  # fmt: skip
    about, _, usage = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    return Command(name, about, tuple(parameters), usage)


def sentence(said: str) -> str:
    """A clause with a capital and a full stop."""
    return said[:1].upper() + said[1:] + ("" if said.endswith(".") else ".") if said else ""


def text() -> str:
    """Sections of all commands."""
    return "\n".join(section(command) for command in commands())


def section(command: Command) -> str:
    """The section of one command."""
    usage = command.name
    usage += "".join(f" {p.names[0].upper()}" for p in command.parameters if p.positional)
    usage += "".join(f" {p.names[0]} <{p.takes}>" for p in needed(command)) + " [OPTIONS]"
    target = re.sub(r"\W+", "-", command.name)
    parts = [f"({target})=", f"## {command.name}", "", prose(command.about), "", "```text", usage, "```", ""]
    parts += [f"```{{program}} {command.name}", "```", ""]
    parts += [entry(parameter) for parameter in command.parameters]
    parts += [prose(command.epilog)]
    return "\n".join(parts) + "\n"


def needed(command: Command) -> list[Parameter]:
    """Options that must be given."""
    return [each for each in command.parameters if each.required and not each.positional]


def entry(parameter: Parameter) -> str:
    """One argument or option, which the index and links can name."""
    takes = f" <{parameter.takes}>" if parameter.takes else ""
    said = [plain(parameter.what)]
    said += ["Must be given."] if parameter.required else []
    said += [f"Default: {code(parameter.default)}."] if parameter.default else []
    said += ["May be repeated."] if parameter.repeated and "epeat" not in parameter.what else []
    if parameter.positional:
        head = parameter.names[0].upper()
    else:
        head = ", ".join(name + takes for name in parameter.names)
    return f"````{{option}} {head}\n{' '.join(each for each in said if each)}\n````\n"


def prose(said: str) -> str:
    """Text of a help page: paragraphs, and indented lines as code."""
    return "\n\n".join(_paragraphs(said))


def _paragraphs(said: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", said.strip("\n")):
        if not paragraph.strip():
            continue
        lines = paragraph.splitlines()
        if all(line.startswith("  ") for line in lines):
            yield "```console\n" + inspect.cleandoc("\n" + paragraph) + "\n```"
        else:
            yield plain(paragraph)


def overview() -> str:
    """What `geomap` alone takes: its options, by its own help."""
    return MANUAL.split("Options:")[1].split("Examples:")[0]
