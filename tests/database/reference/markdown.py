"""The little Markdown that the reference needs, in the form that a Git host and MkDocs read alike."""

import html
from collections.abc import Iterable, Sequence

MARK = "<!-- Made from the code by tests/database/test_reference.py: `make reference` writes it anew. -->"


def page(title: str, *parts: str) -> str:
    """Put a page together."""
    return "\n\n".join([MARK, f"# {title}", *(part.strip("\n") for part in parts)]) + "\n"


def code(text: str) -> str:
    """Return a text as code. A `|` in backticks ends a table's cell on a Git host, and MkDocs shows how it is escaped."""
    if "|" in text:
        return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"
    return f"`{text}`" if text else ""


def prose(text: str) -> str:
    """Return a text as it is read, on one line."""
    words = " ".join(text.split()).replace("*", "\\*").replace("|", "\\|")
    return html.escape(words, quote=False)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a cell is Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
