"""`webhook-worker listen`: a database's events, passed to a local URL. It reads, and touches nothing (docs/adr/0024)."""

import time
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated

import anyio
import typer

from worker import __version__
from worker.cli.endpoint_keys import given_key
from worker.cli.endpoint_settings import EventTypes
from worker.cli.endpoint_test import at_once, outcome_of
from worker.cli.event_tail import Event, EventTail
from worker.cli.live import ask_again, run_until_interrupted
from worker.cli.options import DatabaseUrl, OutputFormat, Tenant
from worker.cli.output import Format, Record, emit_line, say
from worker.core.message import message_headers
from worker.core.model import Request
from worker.core.signing import Signer, shown
from worker.core.trace import trace_headers
from worker.core.url import BadURL, parse_url
from worker.endpoints.checks import read_keys, to_changes
from worker.http.resolver import Resolver
from worker.http.transports import make_sender
from worker.pipeline.ports import Sender
from worker.settings import NO_GUARD_RAILS, Settings, without_password

EVERY_SECONDS = 0.25
TIMEOUT_SECONDS = 15.0
"""An endpoint's default."""


def listen(
    forward_to: Annotated[str, typer.Option("--forward-to", metavar="URL", help="Like http://localhost:3000/hook.")],
    event_type: EventTypes = None,
    tenant: Tenant = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="whsec_…", help="Sign with this key; - reads it from stdin. Default: one is made."),
    ] = None,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Pass events to a URL on this machine as they are committed, signed, one line each, until Ctrl-C.

    It only reads: no endpoint is registered, nothing is claimed, and the workers deliver as if it were not there. What fails is
    not tried again.
    """
    try:
        parse_url(forward_to, allow_http=True)
    except BadURL as error:
        raise typer.BadParameter(str(error), param_hint="--forward-to") from None
    settings = Settings.load(database_url=database_url, guards=NO_GUARD_RAILS)
    tail = EventTail(tenant, to_changes({"event_types": event_type or ["*"]})["event_types"])
    (signer,) = read_keys([] if key is None else [given_key(key)], "v1")
    signed = f"signed with {shown(signer)}" if key is None else "signed with the key that was given"

    async def follow() -> None:
        sender = make_sender(None, Resolver(settings.rules), allow_http=True)
        looks = ask_again(settings.database_url, tail.look, EVERY_SECONDS, lambda text: say(without_password(text)))
        try:
            async with aclosing(looks):
                async for events in looks:
                    if events is None:
                        say(f"passing events to {forward_to}, {signed}; Ctrl-C ends it")
                    for event in events or ():
                        record = await _pass_on(sender, signer, forward_to, event)
                        emit_line(record, format_, _line(record))
        finally:
            with anyio.CancelScope(shield=True):
                await sender.aclose()

    run_until_interrupted(follow)


async def _pass_on(sender: Sender, signer: Signer, url: str, event: Event) -> Record:
    """Post one event as a worker would; return what became of it."""
    body, now = event.payload.encode(), datetime.now(UTC)
    headers = (
        ("content-type", event.content_type),
        ("user-agent", f"webhook-worker/{__version__}"),
        *message_headers([signer], event.webhook_id, int(now.timestamp()), body),
        *trace_headers(event.trace),
    )
    started = time.monotonic()
    exchange = await sender.send(Request(url, headers, body, TIMEOUT_SECONDS), at_once)
    return {
        "at": now,
        "event_id": event.id,
        "event_type": event.event_type,
        "tenant": event.tenant,
        "webhook_id": event.webhook_id,
        "outcome": outcome_of(exchange),
        "status": exchange.status,
        "error": exchange.error,
        "duration_seconds": round(time.monotonic() - started, 6),
    }


def _line(record: Record) -> str:
    clock = record["at"].astimezone().strftime("%H:%M:%S")
    what = record["outcome"] if record["status"] is None else record["status"]
    milliseconds = f"{record['duration_seconds'] * 1000:.0f} ms"
    return f"{clock}  {record['event_type']}  {record['webhook_id']}  {what}  {milliseconds}  {record['error'] or ''}".rstrip()
