"""`webhook-worker listen`: a database's events, passed to a local URL. It reads, and touches nothing (docs/adr/0024)."""

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated

import anyio
import typer

from worker.cli.endpoint_keys import given_key
from worker.cli.endpoint_settings import EventTypes
from worker.cli.endpoint_test import at_once
from worker.cli.event_tail import CommittedEvent, EventTail, Look
from worker.cli.live import ask_again, run_until_interrupted
from worker.cli.options import DatabaseUrl, OutputFormat, Tenant
from worker.cli.output import Format, Record, emit_line, say
from worker.core.classify import outcome_of
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

BEHIND_SECONDS = 3.0
"""If what one look has found takes longer, events come faster than they are passed on."""


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
        prefix = ""

        async def pass_on(event: CommittedEvent) -> None:
            record = await _post(sender, signer, forward_to, event)
            emit_line(record, format_, _line(record))

        try:
            async with aclosing(looks):
                async for look in looks:
                    if not prefix:
                        say(f"passing events to {forward_to}, {signed}; Ctrl-C ends it")
                    elif look.message_id_prefix != prefix:
                        say("the database was made anew: what is in it by now is not passed on, and what comes is")
                    prefix = look.message_id_prefix
                    await _pass_all_on(look, pass_on)
        finally:
            with anyio.CancelScope(shield=True):
                await sender.aclose()

    run_until_interrupted(follow)


async def _pass_all_on(look: Look, pass_on: Callable[[CommittedEvent], Awaitable[None]]) -> None:
    """Pass on what a look has found, one after another. While that takes long, say every few seconds how many events wait."""
    said = time.monotonic()
    for nth, event in enumerate(look.events, 1):
        await pass_on(event)
        waiting = len(look.events) - nth
        if waiting and time.monotonic() - said >= BEHIND_SECONDS:
            say(f"events that wait to be passed on: {waiting:,}{' or more' if look.is_cut else ''}")
            said = time.monotonic()


async def _post(sender: Sender, signer: Signer, url: str, event: CommittedEvent) -> Record:
    """Post one event as a worker would; return what became of it."""
    body, now = event.payload.encode(), datetime.now(UTC)
    headers = message_headers(event.content_type, [signer], event.webhook_id, int(now.timestamp()), body)
    started = time.monotonic()
    exchange = await sender.send(Request(url, (*headers, *trace_headers(event.trace)), body, TIMEOUT_SECONDS), at_once)
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
        "created_at": event.created_at,
    }


def _line(record: Record) -> str:
    clock = record["created_at"].astimezone().strftime("%H:%M:%S")
    what = record["outcome"] if record["status"] is None else record["status"]
    milliseconds = f"{record['duration_seconds'] * 1000:.0f} ms"
    return f"{clock}  {record['event_type']}  {record['webhook_id']}  {what}  {milliseconds}  {record['error'] or ''}".rstrip()
