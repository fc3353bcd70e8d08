"""The operations guide: the commands in its text exist, and each alert has its runbook. test_snippets.py runs its blocks."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from worker.cli.app import app
from worker.cli.run import _parser

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/webhook-worker.rules.yml"
PAGES = ("operations", "sizing", "runbooks", "troubleshooting", "tracing", "logs")


def quoted() -> set[str]:
    """The commands in the text, from the backtick on."""
    texts = [(ROOT / f"docs/{page}.md").read_text() for page in PAGES]
    found = {" ".join(match.split()) for text in texts for match in re.findall(r"`(webhook-worker\s[^`]*)`", text)}
    return {command for command in found if re.match(r"webhook-worker [a-z]", command)}


@pytest.mark.parametrize("command", sorted(quoted()))
def test_its_commands_exist(command: str) -> None:
    """Each word of a command, and each of its options."""
    _, *words = shlex.split(command)
    if words[0] == "run":
        known = set(_parser()._option_string_actions)
    else:
        found: Any = typer.main.get_command(app)
        while words and (commands := getattr(found, "commands", None)):
            assert words[0] in commands, command
            found = commands[words.pop(0)]
        known = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert set() == {word for word in words if word.startswith("--")} - known - {"--help"}


@pytest.mark.skipif(not RULES.exists(), reason="the alert rules are not there yet")
def test_each_alert_has_its_runbook() -> None:
    """And none is for an alert that does not exist."""
    alerts = re.findall(r"^\s*- alert: (\w+)$", RULES.read_text(), re.MULTILINE)
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)

    assert sorted(alerts) == sorted(sections)
