"""Breaks the worker on purpose, one way at a time, and shows that the simulation finds it: `make mutation`.

`mutants/` holds a patch each: what it breaks in words, then the difference. A mutant is found if one of the seeds that CI plays
breaks a promise.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATCHES = sorted((HERE / "mutants").glob("*.patch"))
SEEDS = 100
"""As many as CI plays."""


class Found(NamedTuple):
    """What the simulation said of a mutant: empty if every promise held."""

    said: str
    seconds: float


@contextmanager
def mutated(patch: Path) -> Iterator[Path]:
    """Yield a copy of the worker and its simulation, a patch applied. Raises CalledProcessError if it does not fit."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for part in ("worker", "sql", "tests/simulation"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "mutants"))
        subprocess.run(["git", "apply", str(patch)], cwd=copy, check=True)
        yield copy


def look_for(patch: Path, seeds: int = SEEDS) -> Found:
    """Play seeds against a mutant until one breaks a promise."""
    began = time.perf_counter()
    with mutated(patch) as copy:
        command = [sys.executable, "tests/simulation", "--seeds", str(seeds), "--no-shrink"]
        ended = subprocess.run(command, cwd=copy, env={"PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False)
    said = ended.stdout.partition("\n")[0] if ended.returncode == 1 and ended.stdout.startswith("seed ") else ""
    return Found(said, time.perf_counter() - began)


def main() -> int:
    """Print a table of the mutants; 0 if every one is found."""
    missed = 0
    for patch in PATCHES:
        found = look_for(patch)
        missed += not found.said
        print(f"{patch.stem:28} {found.seconds:5.0f} s  {found.said or 'NOT FOUND'}", flush=True)
    print(f"{len(PATCHES) - missed} of {len(PATCHES)} found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
