"""docs/producers.md shows the examples as they are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/producers"
PAGE = (ROOT / "docs/producers.md").read_text()
SHOWN = dict(
    re.findall(r"^\[`examples/producers/(\S+)`\]\(\S+\):\n\n```\w+ [\w.]+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
)
FILES = {
    str(path.relative_to(EXAMPLES))
    for path in EXAMPLES.rglob("*")
    if path.suffix in {".go", ".js", ".py", ".sql"} and path.name != "__init__.py" and "node_modules" not in path.parts
}


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_what_is_shown_is_the_file(name: str) -> None:
    """Whoever changes an example copies it into the page."""
    assert (EXAMPLES / name).read_text() == SHOWN[name]


def test_every_example_is_on_the_page() -> None:
    """Shown, or at least linked."""
    assert len(SHOWN) >= 10
    linked = set(re.findall(r"\]\(\.\./examples/producers/(\S+?)\)", PAGE))
    assert set() == FILES - linked
