"""What `dev` says and prints: a database without its password, and payloads as they were sent."""

import pytest

from worker.cli.dev import _named, _pretty


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://user:secret@db.internal:5433/shop?sslmode=require&password=secret", "db.internal:5433/shop"),
        ("postgresql://user:12/secret@db/shop", "db/shop"),
        ("postgresql://user@one,two:5433/shop", "one,two:5433/shop"),
        ("postgresql://postgres:@/postgres?host=/srv/data", "/srv/data/postgres"),
        ("postgresql://", "its default host/its default name"),
    ],
)
def test_a_database_is_named_without_its_password(url: str, named: str) -> None:
    """However it is written."""
    assert named == _named(url)


@pytest.mark.parametrize("payload", ['{"order":17,"lines":["é",1.5]}', '{"order": 17, "lines": ["é", 1.5]}'])
def test_json_is_indented(payload: str) -> None:
    assert '{\n  "order": 17,\n  "lines": [\n    "é",\n    1.5\n  ]\n}' == _pretty(payload)


@pytest.mark.parametrize(
    "payload", ['{"total":1.10}', '{"n":1e400}', '{"a":1,"a":2}', '{"n":-0}', '["\\u00e9"]', "[" * 100_000, "text", ""]
)
def test_what_indenting_would_change_is_printed_as_it_came(payload: str) -> None:
    assert payload == _pretty(payload)
