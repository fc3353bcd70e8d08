"""The SQL of this project, which lives in `sql/` and nowhere else.

`sql/queries/*.sql` holds the statements that Python runs, as blocks `-- name: WORD`, then what it is for, then the text.
"""

import hashlib
from functools import cache
from pathlib import Path

from worker import __file__ as package

_INSTALLED = Path(package).parent / "sql"
ROOT = _INSTALLED if _INSTALLED.is_dir() else Path(package).parent.parent / "sql"


@cache
def statements() -> dict[str, str]:
    """Return the named statements."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "queries").glob("*.sql")):
        for block in path.read_text().split("-- name: ")[1:]:
            name, _, text = block.partition("\n")
            found[name.strip()] = text.strip()
    return found


def migrations() -> list[tuple[int, str, str]]:
    """Return (number, name, text) of every migration, in order."""
    return [(int(path.name[:4]), path.stem, path.read_text()) for path in sorted((ROOT / "migrations").glob("*.sql"))]


def functions() -> str:
    """Return the text of every function and view, in order. Applied again whenever it changes."""
    return "\n".join(path.read_text() for path in sorted((ROOT / "functions").glob("*.sql")))


def functions_hash() -> str:
    """Return what identifies the text of the functions."""
    return hashlib.sha256(functions().encode()).hexdigest()[:16]
