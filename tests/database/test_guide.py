"""The operations guide: its statements run, its commands exist, and each alert has its runbook."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from worker.cli.app import app
from worker.cli.run import _parser
from worker.store.database import Database

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/webhook-worker.rules.yml"
PAGES = ("operations", "sizing", "runbooks", "troubleshooting", "tracing", "logs")
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    texts = [(ROOT / f"docs/{page}.md").read_text() for page in PAGES]
    return [block for text in texts for found, block in BLOCK.findall(text) if found == language]


def quoted() -> set[str]:
    """The commands of the guide: in blocks, and in the text from the backtick on."""
    found = set()
    for page in PAGES:
        text = (ROOT / f"docs/{page}.md").read_text()
        found |= {" ".join(match.split()) for match in re.findall(r"`(webhook-worker\s[^`]*)`", text)}
    for block in blocks("sh"):
        for line in block.splitlines():
            if match := re.search(r"webhook-worker (?!@)[a-z][^#>|)]*", line):
                found.add(match[0].strip())
    return {command for command in found if re.match(r"webhook-worker [a-z]", command)}


@pytest.mark.sql
@pytest.mark.parametrize("statement", blocks("sql"))
async def test_its_statements_run(database: Database, statement: str) -> None:
    await database.value("select id from webhook.create_endpoint('https://receiver.test/')")
    await database.rows(statement.strip().removesuffix(";"))


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
