"""docs/reference is what the code says: `make reference` writes it anew."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.store.database import Database

pytest.importorskip("psycopg", reason="it knows the names of SQLSTATEs")

from reference import commands, functions, metrics, python, refusals, settings, views

PAGES = Path(__file__).parents[2] / "docs/reference"
RECORD = "RECORD_REFERENCE"
"""With this variable in the environment, the pages are written."""

pytestmark = pytest.mark.sql  # nothing in them depends on the runtime


@pytest.mark.parametrize(
    ("name", "text"),
    [("cli", commands.text), ("metrics", metrics.text), ("python", python.text)],
)
def test_what_python_says(name: str, text: Callable[[], str]) -> None:
    """Commands and options, metrics, what may be imported."""
    compare(name, text())


async def test_what_the_database_says(database: Database) -> None:
    """Functions with what they raise, views, settings; and all other errors, whose page has its SQLSTATEs and constraints."""
    compare("sql", await functions.text(database))
    compare("views", await views.text(database))
    compare("settings", await settings.text(database))
    compare("errors", await refusals.text(database))


def compare(name: str, text: str) -> None:
    path = PAGES / f"{name}.md"
    if os.environ.get(RECORD):
        path.write_text(text)
    written = path.read_text() if path.exists() else ""
    assert text == written, f"docs/reference/{name}.md is not what the code says any more: `make reference` writes it anew"
