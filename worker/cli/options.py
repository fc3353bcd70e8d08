"""Options that several commands share, and how their texts are read."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from worker.cli.option_group import OptionGroup
from worker.cli.output import Format
from worker.core.backoff import parse_duration
from worker.settings import GuardRails

BIGINT_MAX = 2**63 - 1
ROWS_MAX = 10_000


def one_of(words: Iterable[str]) -> Callable[[str], Any]:
    """Return a parser that takes these words."""
    words = tuple(words)

    def parse(text: str) -> str:
        for word in words:
            if word == text:
                return word
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(words)}")

    return parse


def whole_number(maximum: int = BIGINT_MAX) -> Callable[[str | int], int]:
    """Return a parser that takes a number from 1."""

    def parse(given: str | int) -> int:  # a default comes as a number
        text = str(given)
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(maximum)) and 1 <= int(text) <= maximum):
            raise typer.BadParameter(f"{text!r} is not a number from 1 to {maximum}")
        return int(text)

    return parse


DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database-url", metavar="URL", help="Default: DATABASE_URL, then the credential database_url."),
]
OutputFormat = Annotated[
    Format, typer.Option("--format", parser=one_of(Format), metavar="table|json|jsonl", help="How data is printed to stdout.")
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the audit log.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Limit = Annotated[
    int, typer.Option("--limit", parser=whole_number(ROWS_MAX), metavar="N", help="At most so many, up to 10000.")
]
Id = Annotated[int, typer.Argument(parser=whole_number(), metavar="ID")]
Tenant = Annotated[str | None, typer.Option("--tenant", metavar="T", help="Of this tenant.")]
OfEndpoint = Annotated[int | None, typer.Option("--endpoint", parser=whole_number(), metavar="ID", help="Of this endpoint.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="D", help="Not older than a duration (90s, 2h, 7d) or an RFC 3339 time.")
]
AfterId = Annotated[
    int | None, typer.Option("--after", parser=whole_number(), metavar="CURSOR", help="The next page: the cursor of the last.")
]


def read_guard_rails(
    allow_network: Annotated[
        list[str] | None,
        typer.Option("--allow-network", metavar="CIDR", help="Let receivers be in this private network (repeatable)."),
    ] = None,
    deny_network: Annotated[
        list[str] | None,
        typer.Option("--deny-network", metavar="CIDR", help="Let no receiver be in this network, even if public (repeatable)."),
    ] = None,
    allow_port: Annotated[
        list[str] | None,
        typer.Option("--allow-port", metavar="PORTS", help="Only these: 443, 8000-8999 or any (repeatable)."),
    ] = None,
    allow_http: Annotated[
        bool | None, typer.Option("--allow-http/--no-allow-http", help="Let receivers have plain http:// URLs, or not.")
    ] = None,
) -> GuardRails:
    """Read where receivers may be."""
    return GuardRails(allow_network, deny_network, allow_port, allow_http)


Guards = Annotated[GuardRails, OptionGroup(read_guard_rails)]


def parse_moment(text: str, option: str) -> datetime:
    """Read an RFC 3339 time with its offset."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or not 1970 <= moment.year < 9999:
        raise typer.BadParameter(f"{text!r} is no time with an offset, like 2026-01-31T09:00:00Z", param_hint=option)
    return moment.astimezone(UTC)


def parse_since(text: str | None, option: str = "--since") -> datetime | None:
    """Read `--since` or `--until`: a duration ago, or a moment."""
    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError:
        return parse_moment(text, option)


def parse_headers(texts: Sequence[str]) -> dict[str, str]:
    """Read 'K: V' texts."""
    headers = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon:
            raise typer.BadParameter("a header is written 'Name: value'", param_hint="--header")
        headers[name.strip()] = value.strip()
    return headers
