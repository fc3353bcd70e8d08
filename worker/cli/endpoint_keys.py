"""`webhook-worker endpoints keys|rotate-key`."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from worker.cli.options import DatabaseUrl, DryRun, Id, OutputFormat, Reason
from worker.cli.output import Format, emit_list, emit_one, say
from worker.cli.session import with_endpoints
from worker.core.backoff import parse_duration
from worker.core.signing import Scheme
from worker.endpoints import EndpointKey, Endpoints, NewKey

Asymmetric = Annotated[
    bool, typer.Option("--asymmetric", help="Make an Ed25519 key (v1a): the receiver gets its public half only.")
]


def rotate_key(
    endpoint_id: Id,
    overlap: Annotated[
        str, typer.Option("--overlap", metavar="D", help="How long the keys before it go on signing as well; 0s ends them now.")
    ] = "24h",
    key: Annotated[
        str | None, typer.Option("--key", metavar="whsec_…", help="The new key; - reads it from stdin. Default: one is made.")
    ] = None,
    asymmetric: Asymmetric = False,
    dry_run: DryRun = False,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Let a new key sign, beside the ones before it until the overlap is over. It is shown once, now."""
    try:
        seconds = parse_duration(overlap)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--overlap") from None
    text = None if key is None else given_key(key)
    if dry_run:
        _say_what_would_end(endpoint_id, seconds, database_url, format_)
        return

    async def work(endpoints: Endpoints) -> NewKey:
        return await endpoints.rotate_key(
            endpoint_id, key=text, scheme=scheme(asymmetric), overlap_seconds=seconds, reason=reason
        )

    made = with_endpoints(database_url, work)
    emit_one({"id": made.id, "endpoint_id": made.endpoint_id, "key": made.key}, format_)
    say_what_to_do_with(made.key)


def keys(endpoint_id: Id, database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """List its valid keys, the newest first: public halves, never secrets."""

    async def work(endpoints: Endpoints) -> tuple[EndpointKey, ...]:
        return await endpoints.keys(endpoint_id)

    emit_list([asdict(key) for key in with_endpoints(database_url, work)], format_)


def given_key(text: str) -> str:
    """Return a key that was given, or that stands on stdin: a command line is for all to read."""
    return sys.stdin.readline().strip() if text == "-" else text


def scheme(asymmetric: bool) -> Scheme:
    """Return what `--asymmetric` asks for."""
    return "v1a" if asymmetric else "v1"


def say_what_to_do_with(key: str) -> None:
    """Say what a key that has just been made is good for."""
    if key.startswith("whpk_"):
        say("give the public key to the receiver: `endpoints keys` shows it again")
    else:
        say("keep the key: it is not shown again")


def _say_what_would_end(endpoint_id: int, overlap_seconds: float, database_url: str | None, format_: Format) -> None:
    """Show the keys that are valid now, as `keys` does."""

    async def work(endpoints: Endpoints) -> tuple[EndpointKey, ...]:
        return await endpoints.keys(endpoint_id)

    emit_list([asdict(key) for key in with_endpoints(database_url, work)], format_)
    say(f"dry run: nothing was changed; a new key would sign, and these until {overlap_seconds:g} s later at most")
