"""`webhook-worker completion`: what a shell needs to complete commands and options.

Typer's own `--install-completion` writes into the user's files; this prints, and whoever reads it decides.
"""

import os
from typing import Annotated

import typer
from typer._completion_classes import completion_init
from typer._completion_shared import get_completion_script

from worker.cli.options import one_of

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_WEBHOOK_WORKER_COMPLETE"
"""With it in the environment, a shell asks for completions."""


def prepare_completion() -> None:
    """Let the command line answer, if it is a shell that asks."""
    if VARIABLE in os.environ:
        completion_init()


def completion(
    shell: Annotated[str, typer.Argument(parser=one_of(SHELLS), metavar="bash|zsh|fish", help="The shell that will read it.")],
) -> None:
    """Print the script that lets a shell complete commands and options."""
    typer.echo(get_completion_script(prog_name="webhook-worker", complete_var=VARIABLE, shell=shell))
