"""The lock file: what a deployment installs is pinned, hashed, and what this project asks for."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def locked() -> dict[str, tuple[Requirement, list[str]]]:
    """Return the requirements of the lock file by name, with their hashes."""
    entries = re.split(r"\n(?=\S)", (ROOT / "deploy/requirements.lock").read_text().strip())
    found = {}
    for entry in entries:
        requirement = Requirement(entry.partition("\\")[0].partition(" --hash")[0].strip())
        found[requirement.name] = requirement, re.findall(r"--hash=(sha256:[0-9a-f]{64})", entry)
    return found


def test_everything_is_pinned_with_its_hashes() -> None:
    """One version each, and no file that was not looked at."""
    wrong = [
        name
        for name, (requirement, hashes) in locked().items()
        if not hashes or [specifier.operator for specifier in requirement.specifier] != ["=="]
    ]

    assert len(locked()) > 10
    assert [] == wrong


def test_what_is_asked_for_is_locked_for_both_runtimes() -> None:
    """Each dependency of pyproject.toml is there, in a version that it allows, for the runtime that it is for."""
    asked = [Requirement(text) for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]]
    found = locked()
    missing = [requirement.name for requirement in asked if requirement.name not in found]
    other = [
        requirement.name
        for requirement in asked
        if not all(requirement.specifier.contains(one.version) for one in found[requirement.name][0].specifier)
        or str(requirement.marker or "") != str(found[requirement.name][0].marker or "")
    ]

    assert ([], []) == (missing, other)
