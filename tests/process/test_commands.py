"""All commands, one by one: each has an example that can be typed, and what destroys something can be tried first."""

import shlex
from collections.abc import Iterator

import pytest
import typer.main
from typer.core import TyperCommand, TyperGroup

from worker.cli.app import app, main

DESTRUCTIVE = {"disable", "pause", "purge", "cancel", "hold", "retry", "drain", "delete", "drop", "rotate-key"}
"""What a command is called that ends, stops, removes or repeats something."""

FORWARDED = {"run", "demo"}
"""Commands with a parser of their own."""

NO_TRIAL = {"jobs pause"}
"""Undone by `resume`, and nothing is lost meanwhile."""


def commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, TyperCommand]]:
    """Yield every command with its name as it is typed."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        else:
            assert isinstance(command, TyperCommand)
            yield " ".join((*path, name)), command


def every() -> dict[str, TyperCommand]:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return dict(commands(root))


@pytest.mark.parametrize("name", every())
def test_it_has_an_example_that_can_be_typed(name: str) -> None:
    """Its help ends with one, whose options and arguments it takes."""
    command = every()[name]
    epilog = command.epilog or ""
    start = f"Example: webhook-worker {name}"
    assert epilog.startswith(start), f'give it epilog="Example: webhook-worker {name} …"'
    arguments = shlex.split(epilog.removeprefix(start).partition(" > ")[0])
    if name not in FORWARDED:
        with command.make_context(name, arguments):
            pass


@pytest.mark.parametrize("name", sorted(FORWARDED))
def test_those_with_a_parser_of_their_own_show_it_too(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main([name, "--help"])
    assert f"Example: webhook-worker {name}" in capsys.readouterr().out


def test_what_destroys_something_can_be_tried() -> None:
    """By its name; whoever adds a command of such a name gives it a --dry-run."""
    named = {name: command for name, command in every().items() if name.split()[-1] in DESTRUCTIVE and name not in NO_TRIAL}
    without = [name for name, command in named.items() if not any("--dry-run" in p.opts for p in command.params)]
    assert [] == without
    assert {"endpoints disable", "events purge", "workers drain"} <= set(named)
