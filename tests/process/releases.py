"""Earlier releases, for the tests in which they run beside this one.

There are no tags: a release's last commit is named here, and nowhere else. `tests/database/releases/` holds its schema.
"""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from fleet import ROOT

COMMITS = {"0.1.0": "b04044ca185e2647f6a499d3e7c9be398e652a9e"}


def check_out(release: str, directory: Path) -> Path:
    """Put a release's worker into a directory, from history; skip the test if that is not here."""
    done = subprocess.run(
        ["git", "archive", "--format=tar", COMMITS[release], "worker", "sql"], cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode:
        why = done.stderr.decode().strip()
        pytest.skip(f"release {release} is commit {COMMITS[release]}, which this clone has not (git fetch --unshallow): {why}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(directory, filter="data")
    return directory
