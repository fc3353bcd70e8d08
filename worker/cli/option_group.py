"""One parameter of a command for several options that belong together: `filters: Annotated[Filters, OptionGroup(read)]`."""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OptionGroup:
    """A function whose parameters are the options; what it returns is what the command gets."""

    read: Callable[..., Any]

    def options(self) -> dict[str, inspect.Parameter]:
        """Return them by name."""
        return dict(inspect.signature(self.read).parameters)


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with the options themselves in the place of each group, as typer wants to see them."""
    signature = inspect.signature(command)
    groups = {
        parameter.name: group
        for parameter in signature.parameters.values()
        for group in getattr(parameter.annotation, "__metadata__", ())
        if isinstance(group, OptionGroup)
    }

    def parameters() -> Iterator[inspect.Parameter]:
        for parameter in signature.parameters.values():
            if parameter.name in groups:
                yield from groups[parameter.name].options().values()
            else:
                yield parameter

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group.read(**{option: given.pop(option) for option in group.options()})
        command(**given)

    shown = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters()]
    run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]  # inspect's own hook
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run
