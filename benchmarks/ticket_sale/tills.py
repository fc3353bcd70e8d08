"""The shop's processes: its tables made, its tills opened."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.stage import ROOT


def shop_environment(dsn: str) -> dict[str, str]:
    """Return the environment of a process of the shop."""
    return {**os.environ, "DATABASE_URL": dsn, "DJANGO_SETTINGS_MODULE": "benchmarks.ticket_sale.shop.settings"}


def make_tables(dsn: str) -> None:
    """Make the shop's tables, as its developers would."""
    command = [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0"]
    subprocess.run(command, cwd=ROOT, env=shop_environment(dsn), check=True)


class Till:
    """A till, as seen from outside; `benchmarks/ticket_sale/till.py` is its inside."""

    def __init__(self, dsn: str, log: Path, *arguments: float) -> None:
        command = [sys.executable, "-m", "benchmarks.ticket_sale.till", *map(str, arguments), str(log)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=shop_environment(dsn), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def hear(self) -> str:
        """Wait for its next line."""
        assert self.process.stdout is not None
        if line := self.process.stdout.readline():
            return line
        raise RuntimeError(f"a till ended without a word, with status {self.process.wait()}: what it says is above")

    def begin(self, at: float) -> None:
        """Say when the sale begins, in monotonic seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{at!r}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """End it, if it has not ended."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def open_tills(dsn: str, folder: Path, tills: int, orders: int, per_second: float, seconds_max: float) -> Iterator[list[Till]]:
    """Open tills that sell so many orders together, at this pace; they are ready when this goes on."""
    opened = [
        Till(dsn, folder / f"till-{number}", number, tills, (orders + number) // tills, per_second / tills, seconds_max)
        for number in range(tills)
    ]
    try:
        for till in opened:
            till.hear()
        yield opened
    finally:
        for till in opened:
            till.close()
