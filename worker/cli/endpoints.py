"""`webhook-worker endpoints`."""

import sys
from dataclasses import asdict, fields
from typing import Annotated, Any, cast, get_args

import typer

from worker.cli.help import Commands
from worker.cli.options import (
    AfterId,
    AllowHttp,
    AllowNetwork,
    AllowPort,
    DatabaseUrl,
    DenyNetwork,
    DryRun,
    Id,
    Limit,
    OutputFormat,
    Reason,
    Tenant,
    one_of,
    parse_headers,
)
from worker.cli.output import Format, Record, emit_list, emit_one, say
from worker.cli.session import NothingMatchedError, with_endpoints
from worker.core.backoff import parse_duration
from worker.core.signing import Scheme
from worker.endpoints import CreatedEndpoint, EndpointKey, Endpoints, EndpointSettings, NewKey, Page, RegisteredEndpoint, State
from worker.settings import GuardRails

COLUMNS = ("id", "tenant", "url", "event_types", "state", "state_reason", "rate", "burst", "in_flight", "max_in_flight")
WAITING_COUNTED_MAX = 10_000

app = Commands(help="URLs that receive events.")

EventTypes = Annotated[
    list[str] | None,
    typer.Option("--event-type", metavar="T", help="order.created, order.* or * (repeatable). Default: every type."),
]
Rate = Annotated[
    str | None, typer.Option("--rate", metavar="R", help="At most so many a second (0.00001 to 1000000); none for no limit.")
]
Burst = Annotated[int | None, typer.Option("--burst", metavar="B", help="So many may go at once under a rate (default 1).")]
MaxInFlight = Annotated[int | None, typer.Option("--max-in-flight", metavar="N", help="Requests at once (default 64).")]
Timeout = Annotated[float | None, typer.Option("--timeout", metavar="S", help="Seconds for a whole request (default 15).")]
Retry = Annotated[
    str | None,
    typer.Option("--retry", metavar="DELAYS", help="Default '5s 5m 30m 2h 5h 10h 14h 20h 24h'; none for no retries."),
]
Transport = Annotated[
    str | None, typer.Option("--transport", metavar="NAME", help="How workers reach it: a table of their --transports file.")
]
Asymmetric = Annotated[
    bool, typer.Option("--asymmetric", help="Make an Ed25519 key (v1a): the receiver gets its public half only.")
]
Headers = Annotated[list[str] | None, typer.Option("--header", metavar="'K: V'", help="Sent with every request (repeatable).")]


@app.command(
    epilog="Example: webhook-worker endpoints add https://example.com/hook --tenant acme --event-type 'order.*' --rate 5"
)
def add(
    url: Annotated[str, typer.Argument(metavar="URL")],
    tenant: Annotated[str, typer.Option("--tenant", metavar="T", help="Whose endpoint it is.")] = "",
    event_type: EventTypes = None,
    rate: Rate = None,
    burst: Burst = None,
    max_in_flight: MaxInFlight = None,
    timeout: Timeout = None,
    retry: Retry = None,
    header: Headers = None,
    transport: Transport = None,
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
    allow_network: AllowNetwork = None,
    deny_network: DenyNetwork = None,
    allow_port: AllowPort = None,
    allow_http: AllowHttp = None,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Register an endpoint. Its signing key is shown once, now."""
    settings = _settings(event_type, rate, burst, max_in_flight, timeout, retry, header, transport)
    keys = [given_key(text) for text in key or ()]

    async def work(endpoints: Endpoints) -> CreatedEndpoint:
        return await endpoints.create(url, tenant=tenant, keys=keys, scheme=_scheme(asymmetric), reason=reason, **settings)

    created = with_endpoints(database_url, work, GuardRails(allow_network, deny_network, allow_port, allow_http))
    warn(created.warnings)
    emit_one({"id": created.id, "url": created.url, "key": created.key}, format_)
    _say_what_to_do_with(created.key)


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
    event_type: EventTypes = None,
    rate: Rate = None,
    burst: Burst = None,
    max_in_flight: MaxInFlight = None,
    timeout: Timeout = None,
    retry: Retry = None,
    header: Headers = None,
    transport: Transport = None,
    no_headers: Annotated[bool, typer.Option("--no-headers", help="Remove all custom headers.")] = False,
    reason: Reason = "",
    allow_network: AllowNetwork = None,
    deny_network: DenyNetwork = None,
    allow_port: AllowPort = None,
    allow_http: AllowHttp = None,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Change what is given and leave the rest. --event-type and --header replace all of their kind."""
    settings = _settings(event_type, rate, burst, max_in_flight, timeout, retry, header, transport)
    if no_headers:
        settings["headers"] = parse_headers(header or ())
    if url is None and not settings:
        raise typer.BadParameter("give at least one setting to change")

    async def work(endpoints: Endpoints) -> RegisteredEndpoint:
        warn(await endpoints.set(endpoint_id, url=url, reason=reason, **settings))
        return await endpoints.get(endpoint_id)

    endpoint = with_endpoints(database_url, work, GuardRails(allow_network, deny_network, allow_port, allow_http))
    emit_one(_shown(endpoint, format_), format_)


@app.command("rotate-key", epilog="Example: webhook-worker endpoints rotate-key 7 --overlap 24h --reason yearly")
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
            endpoint_id, key=text, scheme=_scheme(asymmetric), overlap_seconds=seconds, reason=reason
        )

    made = with_endpoints(database_url, work)
    emit_one({"id": made.id, "endpoint_id": made.endpoint_id, "key": made.key}, format_)
    _say_what_to_do_with(made.key)


@app.command(epilog="Example: webhook-worker endpoints keys 7")
def keys(endpoint_id: Id, database_url: DatabaseUrl = None, format_: OutputFormat = Format.table) -> None:
    """List its valid keys, the newest first: public halves, never secrets."""

    async def work(endpoints: Endpoints) -> tuple[EndpointKey, ...]:
        return await endpoints.keys(endpoint_id)

    emit_list([asdict(key) for key in with_endpoints(database_url, work)], format_)


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


def given_key(text: str) -> str:
    """Return a key that was given, or that stands on stdin: a command line is for all to read."""
    return sys.stdin.readline().strip() if text == "-" else text


def _scheme(asymmetric: bool) -> Scheme:
    return "v1a" if asymmetric else "v1"


def _say_what_to_do_with(key: str) -> None:
    if key.startswith("whpk_"):
        say("give the public key to the receiver: `endpoints keys` shows it again")
    else:
        say("keep the key: it is not shown again")


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


def _say_what_would_end(endpoint_id: int, overlap_seconds: float, database_url: str | None, format_: Format) -> None:
    """Show the keys that are valid now, as `keys` does."""

    async def work(endpoints: Endpoints) -> tuple[EndpointKey, ...]:
        return await endpoints.keys(endpoint_id)

    emit_list([asdict(key) for key in with_endpoints(database_url, work)], format_)
    say(f"dry run: nothing was changed; a new key would sign, and these until {overlap_seconds:g} s later at most")


def _settings(
    event_type: list[str] | None,
    rate: str | None,
    burst: int | None,
    max_in_flight: int | None,
    timeout: float | None,
    retry: str | None,
    header: list[str] | None,
    transport: str | None,
) -> EndpointSettings:
    """Return the settings that were given."""
    given: dict[str, Any] = {
        "event_types": event_type or None,
        "burst": burst,
        "max_in_flight": max_in_flight,
        "timeout_seconds": timeout,
        "retry": "" if retry == "none" else retry,
        "headers": parse_headers(header) if header else None,
        "transport": transport,
    }
    settings = cast("EndpointSettings", {name: value for name, value in given.items() if value is not None})
    if rate is not None:
        settings["rate"] = None if rate == "none" else _number(rate)
    return settings


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number a second, nor none", param_hint="--rate") from None
