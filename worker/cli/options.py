"""Options that several commands share, and how their texts are read."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from worker.cli.output import Format
from worker.core.backoff import parse_duration

BIGINT_MAX = 2**63 - 1

DatabaseUrl = Annotated[
    str | None,
    typer.Option("--database-url", metavar="URL", help="Default: DATABASE_URL, then the credential database_url."),
]
AllowNetwork = Annotated[
    list[str] | None,
    typer.Option("--allow-network", metavar="CIDR", help="Let receivers be in this private network (repeatable)."),
]
AllowHttp = Annotated[bool | None, typer.Option("--allow-http", help="Let receivers have plain http:// URLs.")]
OutputFormat = Annotated[Format, typer.Option("--format", help="How data is printed to stdout.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept in the audit log.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, metavar="N", help="At most so many.")]
Id = Annotated[int, typer.Argument(metavar="ID", min=1, max=BIGINT_MAX)]
Tenant = Annotated[str | None, typer.Option("--tenant", metavar="T", help="Of this tenant.")]
OfEndpoint = Annotated[int | None, typer.Option("--endpoint", min=1, max=BIGINT_MAX, metavar="ID", help="Of this endpoint.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="D", help="Not older than a duration (90s, 2h, 7d) or an RFC 3339 time.")
]
AfterId = Annotated[
    int | None, typer.Option("--after", min=1, max=BIGINT_MAX, metavar="CURSOR", help="The next page: the cursor of the last.")
]


def parse_moment(text: str, option: str) -> datetime:
    """Read an RFC 3339 time with its offset."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or not 1970 <= moment.year < 9999:
        raise typer.BadParameter(f"{text!r} is no time with an offset, like 2026-01-31T09:00:00Z", param_hint=option)
    return moment.astimezone(UTC)


def parse_since(text: str | None) -> datetime | None:
    """Read `--since`: a duration ago, or a moment."""
    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError:
        return parse_moment(text, "--since")


def parse_headers(texts: Sequence[str]) -> dict[str, str]:
    """Read 'K: V' texts."""
    headers = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon:
            raise typer.BadParameter("a header is written 'Name: value'", param_hint="--header")
        headers[name.strip()] = value.strip()
    return headers
