"""This worker beside what people use today, on one machine in one run; `make bench` runs it.

Each contestant gets a database of its own, delivers a backlog to nginx as fast as it can, and then half of what it reached
as a steady supply. CPU is of all processes of a worker, and of Postgres (and Redis), in the steady part of the backlog.
Rounds take turns. Then our own worker alone, with other numbers of lanes, endpoints and processes.
"""

import math
import platform
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.compare.contestant import Contestant
from benchmarks.compare.contestants import everybody
from benchmarks.compare.goals import TARGET, judge
from benchmarks.compare.installed import BUILT, CannotRunError
from benchmarks.compare.nginx import nginx
from benchmarks.compare.plain import Ours
from benchmarks.compare.play import Figures, ceiling, play
from benchmarks.report import Report, progress, python_build
from benchmarks.stage import interpreters
from worker.embedded import embedded_postgres

ROUNDS = 3
GROWTH = {"lanes": (8, 64, 512), "endpoints": (100, 1_000, 10_000), "processes": (1, 2, 4)}
CEILING = "wrk, which only sends"


def run(*, quick: bool, scale: float) -> Report:
    """Let everybody play, one after the other, in several rounds."""
    contestants, absent = _who_can()
    runs: dict[str, list[Figures]] = {}
    growth: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, embedded_postgres() as dsn, nginx(Path(folder)) as receiver:
        for turn in range(1 if quick else ROUNDS):
            for contestant in [one for one in contestants if one.name not in absent]:
                try:
                    figures = play(contestant, dsn, receiver, scale)
                except (CannotRunError, RuntimeError) as error:
                    absent[contestant.name] = str(error)
                    progress(f"{contestant.name} drops out: {error}")
                else:
                    runs.setdefault(contestant.name, []).append(figures)
                    progress(f"round {turn + 1}, {contestant.name}: {figures}")
            runs.setdefault(CEILING, []).append(ceiling(receiver))
            progress(f"round {turn + 1}, {CEILING}: {runs[CEILING][-1]}")
        if not quick:
            growth = list(_growth(lambda one: play(one, dsn, receiver, scale)))
    rows = [_row(name, "comparison", 0, each) for name, each in runs.items() if name not in absent]
    goals = judge({row["contestant"]: row for row in rows})
    notes = [_how_built(), *(f"{name} did not run: {why}" for name, why in absent.items())]
    notes += [f"{'holds' if held else 'does not hold'}: {goal}" for goal, held in goals.items()]
    return Report(TARGET, all(goals.values()), rows + growth, notes)


def _who_can() -> tuple[list[Contestant], dict[str, str]]:
    contestants, absent = everybody(), {}
    for contestant in contestants:
        try:
            contestant.install()
        except CannotRunError as error:
            absent[contestant.name] = str(error)
            progress(f"{contestant.name} cannot run here: {error}")
    return contestants, absent


def _growth(measure: Callable[[Contestant], Figures]) -> Iterator[dict[str, Any]]:
    for series, sizes in GROWTH.items():
        for runtime in interpreters():
            for size in sizes:
                ours = Ours(runtime, **{series: size})
                figures = measure(ours)
                progress(f"{series} {size}, {runtime}: {figures}")
                yield _row(f"webhook-worker, {runtime}", series, size, [figures])


def _row(contestant: str, series: str, size: int, each: list[Figures]) -> dict[str, Any]:
    """Return medians, and of the two that matter most the spread from least to most."""
    row: dict[str, Any] = {"contestant": contestant, "series": series, "size": size, "runs": len(each)}
    for name, column in zip(Figures._fields, zip(*each, strict=True), strict=True):
        median = statistics.median(column)
        row[name] = None if math.isnan(median) else round(median, 1)
        if name in {"per_second", "worker_us"}:
            row[f"{name}_spread"] = round(max(column) - min(column), 1)
    return row


def _how_built() -> str:
    """Say which CPython and which others this is about."""
    told = [f"CPython {platform.python_version()}, built {python_build()}"]
    node = str(BUILT / "graphile/node_modules/node/bin/node")
    for command in ([node, "--version"], ["go", "version"], ["nginx", "-v"], ["redis-server", "--version"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        if found := re.search(r"\d+(\.\d+)+", done.stdout + done.stderr):
            told.append(f"{Path(command[0]).name} {found[0]}")
    return "; ".join(told)
