"""The options of an endpoint's settings, which `endpoints add` and `endpoints set` share."""

from typing import Annotated, Any, cast

import typer

from worker.cli.option_group import OptionGroup
from worker.cli.options import parse_headers
from worker.endpoints import EndpointSettings

EventTypes = Annotated[
    list[str] | None,
    typer.Option("--event-type", metavar="T", help="order.created, order.* or * (repeatable). Default: every type."),
]


def read_settings(
    event_type: EventTypes = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", metavar="R", help="At most so many a second (0.00001 to 1000000); none for no limit."),
    ] = None,
    burst: Annotated[
        int | None, typer.Option("--burst", metavar="B", help="So many may go at once under a rate (default 1).")
    ] = None,
    max_in_flight: Annotated[
        int | None, typer.Option("--max-in-flight", metavar="N", help="Requests at once (default 64).")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", help="Seconds for a whole request (default 15).")
    ] = None,
    retry: Annotated[
        str | None,
        typer.Option("--retry", metavar="DELAYS", help="Default '5s 5m 30m 2h 5h 10h 14h 20h 24h'; none for no retries."),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="'K: V'", help="Sent with every request (repeatable).")
    ] = None,
    transport: Annotated[
        str | None,
        typer.Option("--transport", metavar="NAME", help="How workers reach it: a table of their --transports file."),
    ] = None,
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


Settable = Annotated[EndpointSettings, OptionGroup(read_settings)]
