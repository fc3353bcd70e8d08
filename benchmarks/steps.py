"""What each step of a delivery costs, apart from all others: CPU of the worker's process, on both runtimes.

The best of several rounds in an otherwise idle process: what the code itself costs, without what a full machine adds (colder
caches, dearer system calls). `sender` measures the whole in its place; docs/performance.md has both, and the budget.
"""

import json
import subprocess
from typing import Any

from benchmarks.report import Report, progress
from benchmarks.stage import ROOT, counting_receiver, interpreters

BUDGET_US = {"CPython": 60.0, "PyPy": 50.0}
PART = "of that: "
TARGET = f"the steps together at most {BUDGET_US['CPython']:g} µs on CPython, {BUDGET_US['PyPy']:g} on PyPy"


def run(*, quick: bool, scale: float) -> Report:  # noqa: ARG001 - it takes seconds
    """Measure on each runtime, and put the steps side by side."""
    figures: dict[str, dict[str, float]] = {}
    with counting_receiver() as receiver:
        for name, python in interpreters().items():
            command = [python, "-m", "benchmarks.contestants.steps", str(receiver.port)]
            figures[name] = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
            progress(f"{name}: {figures[name]}")
    return _judge(figures)


def _judge(figures: dict[str, dict[str, float]]) -> Report:
    steps = next(iter(figures.values()))
    rows: list[dict[str, Any]] = [
        {"step": step, **{f"{name}_us": round(of[step], 2) for name, of in figures.items()}} for step in steps
    ]
    sums = {name: sum(us for step, us in of.items() if not step.startswith(PART)) for name, of in figures.items()}
    rows.append({"step": "together", **{f"{name}_us": round(us, 1) for name, us in sums.items()}})
    return Report(TARGET, all(us <= BUDGET_US.get(name, us) for name, us in sums.items()), rows)
