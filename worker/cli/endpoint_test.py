"""`webhook-worker endpoints test`: one signed request, past the queue, and all that can be said of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
import typer

from worker.cli.options import DatabaseUrl, Guards, Id, OutputFormat, Reason
from worker.cli.output import Format, Record, cell, emit_one, safe, say
from worker.cli.session import FailedError, actor, with_database
from worker.core.classify import outcome_of
from worker.core.escape import escape
from worker.core.message import message_headers, message_id
from worker.core.model import Endpoint, Request
from worker.http.dial import Dialer
from worker.http.head import headers
from worker.http.pool import Pool
from worker.http.resolver import Resolver
from worker.http.transports import TransportsError, make_sender
from worker.http.watched import WatchedClient
from worker.settings import ExitCode, Settings
from worker.store.codec import dumps, loads
from worker.store.database import Database
from worker.store.postgres import read_endpoint
from worker.store.sql import statements

EVENT_TYPE = "endpoint.test"
HEADERS_SHOWN_MAX = 100


@dataclass(frozen=True)
class _Ping:
    """What is sent: a message of its own, as if it were an event's."""

    request: Request
    signed: tuple[tuple[str, str], ...]
    custom: tuple[str, ...]


def ping(
    endpoint_id: Id,
    transports: Annotated[
        str | None, typer.Option("--transports", metavar="FILE", help="The workers' file of transports.")
    ] = None,
    reason: Reason = "",
    *,
    guards: Guards,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Send a signed endpoint.test from here, past the queue, and show the exchange: exit 0 after a 2xx, 1 otherwise.

    It is sent whatever state the endpoint is in, counts against none of its limits, and is no attempt: only the audit log keeps
    that it was made.
    """
    settings = Settings.load(database_url=database_url, guards=guards, transports=transports)

    async def begin(database: Database) -> Mapping[str, Any]:
        begun: Mapping[str, Any] = loads(await database.value(statements()["endpoint_test"], endpoint_id, actor(), reason))
        return begun

    begun = with_database(settings.database_url, begin)
    endpoint = read_endpoint(endpoint_id, begun, settings.key_ring)
    if endpoint.problem or not endpoint.keys:
        raise FailedError(f"endpoint {endpoint_id} cannot be sent to: {endpoint.problem or 'it has no valid key'}")
    record = anyio.run(_exchange, settings, endpoint, _ping(endpoint, begun))
    if format_ is Format.table:
        _print(record)
    else:
        emit_one(record, format_)
    if begun["state"] != "enabled":
        say(f"the endpoint is {begun['state']}: its deliveries are held all the same")
    raise typer.Exit(ExitCode.OK if record["outcome"] == "ok" else ExitCode.FAILED)


def _ping(endpoint: Endpoint, begun: Mapping[str, Any]) -> _Ping:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun["now"]))
    body = dumps({"type": EVENT_TYPE, "timestamp": moment, "data": {"endpoint_id": endpoint.id}}).encode()
    identity = message_id(begun["message_id_prefix"], begun["event_id"])
    signed = message_headers("application/json", endpoint.keys, identity, int(begun["now"]), body)
    request = Request(endpoint.url, (*signed, *endpoint.headers), body, endpoint.timeout_seconds, endpoint.transport)
    return _Ping(request, signed, tuple(name for name, _ in endpoint.headers))


async def _exchange(settings: Settings, endpoint: Endpoint, ping: _Ping) -> Record:
    clients: list[WatchedClient] = []

    def watched(dialer: Dialer, pool: Pool) -> WatchedClient:
        clients.append(WatchedClient(dialer, pool))
        return clients[-1]

    try:
        sender = make_sender(settings.transports, Resolver(settings.rules), allow_http=settings.allow_http, client=watched)
    except TransportsError as error:
        raise FailedError(str(error)) from None
    started = time.monotonic()
    try:
        exchange = await sender.send(ping.request, at_once)
        seconds = time.monotonic() - started
    finally:
        await sender.aclose()
    seen = next((client.seen for client in clients if client.seen), None)
    head = headers(seen.response.fields)[:HEADERS_SHOWN_MAX] if seen and seen.response else []
    return {
        "endpoint_id": endpoint.id,
        "url": endpoint.url,
        "transport": endpoint.transport,
        "request_headers": dict(ping.signed) | dict.fromkeys(ping.custom, "***"),
        "request_body": ping.request.body.decode(),
        "address": seen.peer if seen else None,
        "tls": seen.tls if seen else None,
        "outcome": outcome_of(exchange),
        "status": exchange.status,
        "response_headers": [f"{escape(name)}: {escape(value)}" for name, value in head],
        "response_body": escape(exchange.body) if exchange.body else None,
        "error": exchange.error,
        "duration_seconds": round(seconds, 6),
    }


async def at_once(_: bool) -> None:
    """Nothing is waited for before the first byte: no lease, no planned moment."""


def _print(record: Record) -> None:
    """Print it as an exchange: what went out after >, what came back after <."""
    address = record["address"] or "(no connection of ours)"
    lines = [
        f"* {record['url']} by transport {record['transport']}",
        f"* connected to {address}" + (f" with {record['tls']}" if record["tls"] else ""),
        *(f"> {name}: {value}" for name, value in record["request_headers"].items()),
        ">",
        f"> {record['request_body']}",
        *([] if record["status"] is None else [f"< {record['status']}"]),
        *(f"< {line}" for line in record["response_headers"]),
        *([] if record["response_body"] is None else ["<", *(f"< {line}" for line in record["response_body"].split("\n"))]),
        *([f"* {record['error']}"] if record["error"] else []),
        f"* {record['outcome']} after {cell(record['duration_seconds'])} s",
    ]
    for line in lines:
        typer.echo(safe(line))
