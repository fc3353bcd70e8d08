"""`webhook-worker keys`: the key-encryption keys that endpoints' signing keys are sealed with."""

from typing import Annotated

import typer

from worker.cli.help import Commands
from worker.cli.options import DatabaseUrl, OutputFormat, Reason
from worker.cli.output import Format, emit_one, say
from worker.cli.session import FailedError, with_endpoints
from worker.core.sealing import new_line
from worker.endpoints import Endpoints, Resealed
from worker.settings import ConfigurationError, read_key_ring

app = Commands(help="What signing keys are sealed with: a file of keys, of which the first seals and all unseal.")


@app.command(epilog="Example: webhook-worker keys new 2026-11")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Like 2026-11; it is stored beside what the key seals.")],
    format_: OutputFormat = Format.table,
) -> None:
    """Print a new line for the key file. It is a secret, and kept nowhere else."""
    try:
        line = new_line(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="NAME") from None
    if format_ is Format.table:
        typer.echo(line)
    else:
        emit_one({"line": line}, format_)


@app.command(epilog="Example: webhook-worker keys rotate --reason yearly")
def rotate(reason: Reason = "", database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """Seal every signing key with the first key of the file, also those that were never sealed. Interrupted, run it again."""
    if not read_key_ring():
        raise ConfigurationError(
            "there is no key to seal with: name a file of keys in WEBHOOK_WORKER_KEY_FILE, or give the credential key; "
            "`webhook-worker keys new NAME` prints a line for it"
        )

    async def work(endpoints: Endpoints) -> Resealed:
        return await endpoints.reseal_keys(reason=reason)

    done = with_endpoints(database_url, work)
    emit_one({"sealed_with": done.sealed_with, "keys": done.keys, "failed": len(done.failed)}, format_)
    for failure in done.failed:
        say(failure)
    if done.failed:
        raise FailedError(f"{len(done.failed)} keys are as they were")
