"""One frame of `top`, as large as the terminal. Imported only by it: rich takes a while."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from worker.cli.output import safe
from worker.cli.stats import describe_holder
from worker.cli.top_look import Look
from worker.store.database import Row

WORKER_ROWS_MIN = 3
SNAPSHOT_SECONDS_TOLD = 10.0
HEADINGS = 2
"""Lines that the two tables need for their names."""


@dataclass(frozen=True)
class Frame:
    """What one look found; `trouble` is said above it."""

    look: Look
    trouble: str = ""

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """Fill the height that there is, if it is known: half of what is left for workers, if there are so many."""
        lines = list(_summary(self.look, self.trouble))
        left = (options.height or 10_000) - len(lines) - HEADINGS - 2
        workers = min(len(self.look.workers), max(left // 2, WORKER_ROWS_MIN))
        endpoints = max(min(len(self.look.worst), left - workers), 0)
        yield from (Text(line, no_wrap=True, overflow="ellipsis") for line in lines)
        yield Text()
        yield _endpoints(self.look, endpoints)
        yield Text()
        yield _workers(self.look, workers)


def _summary(look: Look, trouble: str) -> Iterable[str]:
    about = "about " if look.backlog_is_estimate else ""
    of = look.endpoints
    counters = look.counters
    yield f"webhook-worker top   {look.at:%Y-%m-%d %H:%M:%S} UTC   " + (safe(trouble) if trouble else "q leaves")
    yield (
        f"enqueued   {_rate(look.enqueued_per_second)}   delivered {_rate(look.delivered_per_second)}   "
        f"failed {_rate(look.failed_per_second)}"
    )
    yield f"backlog    {about}{look.backlog:,}, the oldest due {_age(look.oldest_due_seconds)}"
    yield (
        f"endpoints  {of['enabled']:,} enabled, {of['paused']:,} paused, {of['disabled']:,} disabled; "
        f"{of['failing']:,} failing; circuits {of['circuits_open']:,} open, {of['circuits_half_open']:,} probed"
    )
    yield (
        f"database   {counters['connections']} of {counters['connections_max']} connections, "
        f"{counters['dead_rows']:,} dead rows in hot tables; oldest snapshot {_snapshot(look.snapshot)}"
    )


def _snapshot(snapshot: Row | None) -> str:
    """Who holds one is worth a line only if it is held for a while."""
    if snapshot is None or (snapshot["seconds"] is not None and snapshot["seconds"] < SNAPSHOT_SECONDS_TOLD):
        return "is recent"
    return safe(describe_holder(snapshot))


def _endpoints(look: Look, rows: int) -> Table:
    table = _table(("endpoint", "tenant", "backlog", "oldest due", "in flight", "failures", "state", "url"), {0, 2, 3, 4, 5})
    for row in look.worst[:rows]:
        more = "+" if row["backlog_is_at_least"] else ""
        state = row["state"] if row["circuit"] == "closed" else f"circuit {row['circuit'].replace('_', ' ')}"
        _add(table, (
            str(row["id"]), row["tenant"] or "-", f"{row['backlog']:,}{more}", _age(row["oldest_due_seconds"]),
            str(row["in_flight"]), str(row["failures"]), state, row["url"],
        ))  # fmt: skip
    return table


def _workers(look: Look, rows: int) -> Table:
    table = _table(("worker", "state", "lanes", "in hand", "attempts", "delivered", "runtime"), {2, 3, 4, 5})
    for row in look.workers[:rows]:
        _add(table, (
            row["name"], row["state"].replace("_", " "), str(row["lanes"]), str(row["in_hand"]),
            _rate(row["attempted_per_second"]), _rate(row["delivered_per_second"]), row["runtime"],
        ))  # fmt: skip
    return table


def _table(columns: Sequence[str], numeric: set[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for n, name in enumerate(columns):
        table.add_column(name, justify="right" if n in numeric else "left", no_wrap=True, overflow="ellipsis")
    return table


def _add(table: Table, cells: Iterable[str]) -> None:
    table.add_row(*(Text(safe(cell)) for cell in cells))


def _rate(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:,.0f}/s" if rate >= 10 or rate == 0 else f"{rate:.1f}/s"


def _age(seconds: float | None) -> str:
    """Two digits are enough: 4 s, 12 min, 3 h, 2 d."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
