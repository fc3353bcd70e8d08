"""`webhook-worker endpoints import`: endpoints by the thousand, one JSON object a line."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from worker.cli.endpoints import warn
from worker.cli.options import DatabaseUrl, Guards, OutputFormat, Reason
from worker.cli.output import Format, Record, emit_list, say
from worker.cli.session import FailedError, with_endpoints
from worker.endpoints import CreatedEndpoint, Endpoints
from worker.endpoints.lines import LINE_BYTES_MAX, read_line

BATCH_LINES = 500


def import_file(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines; - for stdin.")],
    reason: Reason = "",
    *,
    guards: Guards,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Create an endpoint for each line.

    A line is an object of url and, as needed, tenant, event_types, rate, burst, max_in_flight, timeout_seconds, retry,
    headers, transport and keys. Good lines are applied and bad ones reported; the exit code is
    1 if any was bad. Keys are shown once, now.
    """
    with ExitStack() as stack:
        lines = _open(file, stack)
        bad: list[int] = []
        made: list[Record] = []

        async def work(endpoints: Endpoints) -> None:
            numbered = enumerate(_lines(lines), start=1)
            while batch := list(islice(numbered, BATCH_LINES)):
                made.extend(await _create(endpoints, batch, bad, reason))

        try:
            with_endpoints(database_url, work, guards)
        finally:  # also if it ends half-way: the keys of what was created are shown now or never
            emit_list(made, format_)
    say(f"{len(made)} created, {len(bad)} refused")
    if bad:
        raise FailedError("some lines were refused; the others are applied, so import only the corrected lines again")


async def _create(endpoints: Endpoints, batch: list[tuple[int, bytes]], bad: list[int], reason: str) -> Iterator[Record]:
    numbers, new = [], []
    for number, line in batch:
        if not line.strip():
            continue
        try:
            new.append(read_line(line))
            numbers.append(number)
        except ValueError as error:
            bad.append(number)
            say(f"line {number}: {error}")
    results = list(zip(numbers, await endpoints.create_many(new, reason=reason), strict=True))
    for number, result in results:
        if isinstance(result, CreatedEndpoint):
            warn(tuple(f"line {number}: {warning}" for warning in result.warnings))
        else:
            bad.append(number)
            say(f"line {number}: {result.error}")
    return iter(
        {"line": number, "id": result.id, "url": result.url, "key": result.key}
        for number, result in results
        if isinstance(result, CreatedEndpoint)
    )


def _open(file: str, stack: ExitStack) -> BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    try:
        return stack.enter_context(Path(file).open("rb"))
    except OSError as error:
        raise FailedError(f"{file} cannot be read: {error.strerror}") from None


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines; of one that is too long, only enough to refuse it."""
    while line := file.readline(LINE_BYTES_MAX + 1):
        yield line
        while len(line) > LINE_BYTES_MAX and not line.endswith(b"\n"):
            line = file.readline(LINE_BYTES_MAX + 1)
