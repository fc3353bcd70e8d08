"""The file of `dev`: what is read from it, and what is refused with its line."""

import json
from pathlib import Path

import pytest

from worker.dev.endpoints_file import read_endpoints


def file(directory: Path, *lines: object) -> Path:
    path = directory / "endpoints.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_lines_are_endpoints(tmp_path: Path) -> None:
    """As for `endpoints import`; empty lines mean nothing."""
    path = file(tmp_path, {"url": "http://localhost:1/a", "rate": 5}, "", {"url": "http://localhost:1/a", "tenant": "acme"})
    first, second = read_endpoints(path)
    assert ("http://localhost:1/a", "", {"rate": 5}) == (first.url, first.tenant, first.settings)
    assert ("acme", {}) == (second.tenant, second.settings)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ({"uri": "http://localhost/"}, "not an object with a url"),
        ({"url": "ftp://localhost/"}, "the scheme is ftp"),
        ({"url": "http://localhost/", "rate": "5"}, "rate is '5'"),
        ({"url": "http://localhost/", "colour": "blue"}, "no setting colour"),
        ({"url": "http://localhost/", "keys": ["secret"]}, "a key is"),
        ({"url": "http://localhost/", "tenant": ["acme"]}, "the tenant is a text"),
        ({"url": "http://localhost/first"}, "a line before has the same tenant and url"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, why: str) -> None:
    """With its number, and what is wrong with it; then nothing of the file counts."""
    path = file(tmp_path, {"url": "http://localhost/first"}, line)
    with pytest.raises(ValueError, match=rf"^line 2: .*{why}"):
        read_endpoints(path)
