"""What a benchmark reports, and how it is shown."""

import os
import platform
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass
class Report:
    """Rows of figures, the target in words, and whether it holds. `series` is for plots."""

    target: str
    holds: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        told = {"target": self.target, "holds": self.holds, "rows": self.rows, "notes": self.notes}
        return {**told, "series": self.series} if self.series else told


def machine() -> dict[str, Any]:
    """Describe this machine, without its name."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(),
        "python": platform.python_version(),
        "build": python_build(),
    }


def python_build() -> str:
    """Say whether this CPython was built with profile-guided optimization, which makes a fifth of difference."""
    if sys.base_prefix == "/usr" and Path("/etc/debian_version").exists():
        return "Debian's, with profile-guided optimization"  # which it does not tell by its configuration
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return f"{'with' if optimized else 'without'} profile-guided optimization"


def progress(text: str) -> None:
    """Say on stderr what is going on."""
    print(text, file=sys.stderr, flush=True)


def print_table(report: Report) -> None:
    """Print a report for people."""
    table = Table()
    for column in report.rows[0]:
        table.add_column(column, justify="left" if isinstance(report.rows[0][column], str) else "right")
    for row in report.rows:
        table.add_row(*(f"{value:g}" if isinstance(value, float) else str(value) for value in row.values()))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    for note in report.notes:
        console.print(note)
    console.print(f"{'holds' if report.holds else 'does NOT hold'}: {report.target}")
