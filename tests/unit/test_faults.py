"""The table of faults in docs/faults.md says of each row whether a test covers it, and the tests' marks say the same."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

_ROW = re.compile(r"^\| (\d+) \|.*\| (yes|partly|not yet) \|$", re.MULTILINE)
_MARK = re.compile(r"pytest\.mark\.fault\((\d+)\)")


def rows() -> dict[int, str]:
    return {int(number): covered for number, covered in _ROW.findall((ROOT / "docs" / "faults.md").read_text())}


def marks() -> set[int]:
    return {int(number) for path in (ROOT / "tests").rglob("test_*.py") for number in _MARK.findall(path.read_text())}


def test_rows_are_numbered() -> None:
    """Rows are numbered from 1, without a gap, and each says whether a test covers it."""
    assert list(range(1, len(rows()) + 1)) == list(rows())


def test_marks_name_rows() -> None:
    """A test that says that it covers a fault names one of the table."""
    assert set() == marks() - rows().keys()


def test_covered_rows_are_marked() -> None:
    """A row that is said to be covered, in part or whole, has a test that says so; a row that has one says it is covered."""
    assert {number for number, covered in rows().items() if covered != "not yet"} == marks()
