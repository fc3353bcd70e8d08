"""docs/reference/cli.md: every command, from typer's commands and from the parsers of `run` and `demo`."""

import argparse
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import typer.main
from typer.core import TyperGroup

from reference.markdown import code, page, prose, table
from worker.cli import run
from worker.cli.app import BY_USE, app

INTRODUCTION = """
Every command, option and default. [The command line](../cli.md) explains how they are used, and
[the JSON of commands](../cli-json.md) what they print.
"""

Row = tuple[str, str, str]


def text() -> str:
    """Return the page."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    contents = ", ".join(f"[{name}](#{name})" for name in BY_USE)
    return page("Commands", INTRODUCTION, f"{contents}.", *_parts(root))


def _parts(root: TyperGroup) -> Iterator[str]:
    for name in BY_USE:
        command: Any = root.commands[name]
        yield f"## {name}"
        if isinstance(command, TyperGroup):
            if command.help:
                yield prose(command.help)
            for verb, each in command.commands.items():
                yield f"### {name} {verb}"
                yield from _typed(f"{name} {verb}", each)
        elif name == "run":
            yield from _parsed(run._parser())
        else:
            yield from _typed(name, command)


def _typed(name: str, command: Any) -> Iterator[str]:
    """Say what there is of a command of typer's."""
    context = typer.Context(command, info_name=name)
    arguments = [parameter for parameter in command.get_params(context) if parameter.param_type_name == "argument"]
    usage = " ".join(["webhook-worker", name, *(str(argument.metavar) for argument in arguments), "[OPTIONS]"])
    yield code(usage)
    yield "\n\n".join(prose(paragraph) for paragraph in inspect.cleandoc(command.help).split("\n\n"))
    shown = [_option(parameter) for parameter in command.get_params(context) if parameter.param_type_name == "option"]
    yield from _table(row for row in shown if not row[0].startswith("`--help"))
    yield _example(command.epilog)


def _option(option: Any) -> Row:
    names = " / ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.metavar or ''}".rstrip()
    default = option.default
    if default is None or default is False or default == "" or callable(default):
        return code(f"{names}{value}"), prose(option.help), ""
    return code(f"{names}{value}"), prose(option.help), code(str(default))


def _parsed(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Say what there is of a command with a parser of its own."""
    yield code(f"{parser.prog} [OPTIONS]")
    yield prose(parser.description or "")
    yield from _table(_argument(action) for action in parser._actions if action.dest != "help")
    yield "Defaults are in the texts. What stands for an option in the environment is in [settings](settings.md)."
    yield _example(parser.epilog)


def _argument(action: argparse.Action) -> Row:
    names, value = " / ".join(action.option_strings), action.metavar or "|".join(action.choices or ())
    return code(f"{names} {value}".rstrip()), prose(action.help or ""), ""


def _table(rows: Iterable[Row]) -> Iterator[str]:
    found = list(rows)
    if any(default for *_, default in found):
        yield table(("option", "", "default"), found)
    elif found:
        yield table(("option", ""), [row[:2] for row in found])


def _example(epilog: str | None) -> str:
    assert epilog is not None
    return f"```sh\n{epilog.removeprefix('Example: ')}\n```"
