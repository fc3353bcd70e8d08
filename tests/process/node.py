"""Node and the packages of the examples that are written for it."""

import os
import shutil
from pathlib import Path

import pytest
from fleet import ROOT


def node_lacks(directory: Path) -> str | None:
    """Say what is missing for the example in `directory`, if anything is."""
    if not shutil.which("node"):
        return "node is not installed"
    if not (directory / "node_modules/pg").exists():
        return f"run `npm install` in {directory.relative_to(ROOT)}"
    return None


def skip_without_node(reason: str) -> None:
    """Skip a test for what `node_lacks`; in CI it fails, since there .ci/run has installed everything."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
