"""How `--help` looks: the names of the documentation (URL, ID, N), and no types of Python beside them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from worker.cli.option_group import spread

Function = TypeVar("Function", bound=Callable[..., Any])


class Commands(typer.Typer):
    """A group of commands."""

    def __init__(self, *, cls: type[TyperGroup] | None = None, **options: Any) -> None:
        super().__init__(cls=cls or Group, no_args_is_help=True, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Function], Function]:
        """Register a command; groups of options are spread."""
        register = super().command(name, cls=Command, **options)

        def spread_and_register(command: Function) -> Function:
            register(spread(command))
            return command

        return spread_and_register


class Command(TyperCommand):
    """A command: `show ID [OPTIONS]`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return its arguments and options."""
        return _tidied(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows its name in the line of usage."""
        names = [str(parameter.metavar) for parameter in self.get_params(ctx) if isinstance(parameter, TyperArgument)]
        return [*names, "[OPTIONS]"]


class Group(TyperGroup):
    """A group in the list of commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return its options."""
        return _tidied(super().get_params(ctx))


def _tidied(parameters: Sequence[Any]) -> list[Any]:
    for parameter in parameters:
        if isinstance(parameter, TyperOption) and parameter.is_flag:
            parameter.metavar = ""  # a flag takes no value
    return list(parameters)
