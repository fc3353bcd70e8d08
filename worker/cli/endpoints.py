"""`webhook-worker endpoints`."""

from dataclasses import fields
from typing import Annotated, Any, get_args

import typer

from worker.cli.endpoint_keys import Asymmetric, given_key, say_what_to_do_with, scheme
from worker.cli.endpoint_settings import Settable
from worker.cli.help import Commands
from worker.cli.options import AfterId, DatabaseUrl, DryRun, Guards, Id, Limit, OutputFormat, Reason, Tenant, one_of
from worker.cli.output import Format, Record, emit_list, emit_one, say
from worker.cli.session import NothingMatchedError, with_endpoints
from worker.endpoints import CreatedEndpoint, Endpoints, Page, RegisteredEndpoint, State

COLUMNS = ("id", "tenant", "url", "event_types", "state", "state_reason", "rate", "burst", "in_flight", "max_in_flight")
WAITING_COUNTED_MAX = 10_000

app = Commands(help="URLs that receive events.")


@app.command(
    epilog="Example: webhook-worker endpoints add https://example.com/hook --tenant acme --event-type 'order.*' --rate 5"
)
def add(
    url: Annotated[str, typer.Argument(metavar="URL")],
    tenant: Annotated[str, typer.Option("--tenant", metavar="T", help="Whose endpoint it is.")] = "",
    *,
    settings: Settable,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="whsec_…",
            help="Sign with this key; - reads it from stdin (repeatable: all sign during a rotation). Default: one is made.",
        ),
    ] = None,
    asymmetric: Asymmetric = False,
    reason: Reason = "",
    guards: Guards,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Register an endpoint. Its signing key is shown once, now."""
    keys = [given_key(text) for text in key or ()]

    async def work(endpoints: Endpoints) -> CreatedEndpoint:
        return await endpoints.create(url, tenant=tenant, keys=keys, scheme=scheme(asymmetric), reason=reason, **settings)

    created = with_endpoints(database_url, work, guards)
    warn(created.warnings)
    emit_one({"id": created.id, "url": created.url, "key": created.key}, format_)
    say_what_to_do_with(created.key)


@app.command("list", epilog="Example: webhook-worker endpoints list --tenant acme --state paused")
def list_(
    tenant: Tenant = None,
    state: Annotated[
        State | None,
        typer.Option("--state", parser=one_of(get_args(State)), metavar="S", help="enabled, paused or disabled."),
    ] = None,
    limit: Limit = 50,
    after: AfterId = None,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """List endpoints, newest first."""

    async def work(endpoints: Endpoints) -> Page[RegisteredEndpoint]:
        return await endpoints.list(tenant=tenant, state=state, limit=limit, after=after)

    page = with_endpoints(database_url, work)
    emit_list([_shown(endpoint, format_) for endpoint in page.items], format_, COLUMNS)
    if not page.items:
        raise NothingMatchedError("no endpoint matches")
    if page.after is not None:
        say(f"there are more: --after {page.after}")


@app.command(epilog="Example: webhook-worker endpoints show 7")
def show(endpoint_id: Id, database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """Show one endpoint. The values of its headers are not shown: they may be credentials."""

    async def work(endpoints: Endpoints) -> RegisteredEndpoint:
        return await endpoints.get(endpoint_id)

    emit_one(_shown(with_endpoints(database_url, work), format_), format_)


@app.command("set", epilog="Example: webhook-worker endpoints set 7 --rate none --reason 'they grew'")
def set_(
    endpoint_id: Id,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="Deliver there from now on.")] = None,
    *,
    settings: Settable,
    no_headers: Annotated[bool, typer.Option("--no-headers", help="Remove all custom headers.")] = False,
    reason: Reason = "",
    guards: Guards,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Change what is given and leave the rest. --event-type and --header replace all of their kind."""
    if no_headers:
        settings.setdefault("headers", {})
    if url is None and not settings:
        raise typer.BadParameter("give at least one setting to change")

    async def work(endpoints: Endpoints) -> RegisteredEndpoint:
        warn(await endpoints.set(endpoint_id, url=url, reason=reason, **settings))
        return await endpoints.get(endpoint_id)

    endpoint = with_endpoints(database_url, work, guards)
    emit_one(_shown(endpoint, format_), format_)


@app.command(epilog="Example: webhook-worker endpoints pause 7 --reason 'their maintenance'")
def pause(
    endpoint_id: Id,
    dry_run: DryRun = False,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Hold its deliveries until it is resumed."""
    if dry_run:
        _say_what_would_be_held(endpoint_id, database_url, format_)
        return
    _change_state("pause", endpoint_id, reason, database_url, format_)


@app.command(epilog="Example: webhook-worker endpoints resume 7")
def resume(
    endpoint_id: Id, reason: Reason = "", database_url: DatabaseUrl = None, format_: OutputFormat = Format.table
) -> None:
    """Let a paused endpoint's deliveries go."""
    _change_state("resume", endpoint_id, reason, database_url, format_)


@app.command(epilog="Example: webhook-worker endpoints disable 7 --reason unpaid")
def disable(
    endpoint_id: Id,
    dry_run: DryRun = False,
    reason: Reason = "",
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Hold its deliveries until it is enabled."""
    if dry_run:
        _say_what_would_be_held(endpoint_id, database_url, format_)
        return
    _change_state("disable", endpoint_id, reason, database_url, format_)


@app.command(epilog="Example: webhook-worker endpoints enable 7")
def enable(
    endpoint_id: Id, reason: Reason = "", database_url: DatabaseUrl = None, format_: OutputFormat = Format.table
) -> None:
    """Enable it, whatever state it is in; what was held is delivered."""
    _change_state("enable", endpoint_id, reason, database_url, format_)


def warn(warnings: tuple[str, ...]) -> None:
    """Print warnings about a URL."""
    for warning in warnings:
        say(f"warning: {warning}")


def _shown(endpoint: RegisteredEndpoint, format_: Format) -> Record:
    """Return the columns of the view, without the values of the headers. To people, no event types are all of them."""
    record: dict[str, Any] = {field.name: getattr(endpoint, field.name) for field in fields(endpoint)}
    record["headers"] = dict.fromkeys(endpoint.headers, "***")
    if format_ is Format.table and not endpoint.event_types:
        record["event_types"] = "*"
    return record


def _change_state(action: str, endpoint_id: int, reason: str, database_url: str | None, format_: Format) -> None:
    async def work(endpoints: Endpoints) -> RegisteredEndpoint:
        change = {
            "pause": endpoints.pause, "resume": endpoints.resume, "disable": endpoints.disable, "enable": endpoints.enable
        }[action]  # fmt: skip
        await change(endpoint_id, reason=reason)
        return await endpoints.get(endpoint_id)

    endpoint = with_endpoints(database_url, work)
    if format_ is Format.table:
        say(f"endpoint {endpoint.id} is {endpoint.state}")
    else:
        emit_one(_shown(endpoint, format_), format_)


def _say_what_would_be_held(endpoint_id: int, database_url: str | None, format_: Format) -> None:
    """Show the endpoint as it is, and how much waits for it."""

    async def work(endpoints: Endpoints) -> tuple[RegisteredEndpoint, int]:
        return await endpoints.get(endpoint_id), await endpoints.count_waiting(endpoint_id, WAITING_COUNTED_MAX)

    endpoint, waiting = with_endpoints(database_url, work)
    if format_ is not Format.table:
        emit_one(_shown(endpoint, format_), format_)
    many = f"{waiting} or more" if waiting == WAITING_COUNTED_MAX else str(waiting)
    say(f"dry run: nothing was changed; endpoint {endpoint_id} is {endpoint.state}, {many} deliveries wait and would be held")
