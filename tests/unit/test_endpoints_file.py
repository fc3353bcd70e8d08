"""The file of `dev`: what is read from it, what is refused with its line, and when it counts."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from worker.dev.endpoints_file import EndpointsFile, read_endpoints
from worker.dev.keeper import Keeper
from worker.endpoints import EndpointRefusedError, NewEndpoint
from worker.pipeline.ports import StoreError
from worker.store.database import DatabaseError, DatabaseUnavailableError


def file(directory: Path, *lines: object) -> Path:
    path = directory / "endpoints.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_lines_are_endpoints(tmp_path: Path) -> None:
    """As for `endpoints import`; empty lines mean nothing."""
    path = file(tmp_path, {"url": "http://localhost:1/a", "rate": 5}, "", {"url": "http://localhost:1/a", "tenant": "acme"})
    lines = read_endpoints(path)
    first, second = lines.values()
    assert [1, 3] == list(lines)
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


class Database(Keeper):
    """Keeps what it was asked to bring; `refuses` and `failures` come back or are raised, one a time."""

    def __init__(self) -> None:
        self.brought: list[list[str]] = []
        self.refuses: dict[int, Exception] = {}
        self.failures: list[StoreError | dict[int, Exception]] = []

    async def bring(self, lines: Mapping[int, NewEndpoint]) -> dict[int, Exception]:
        self.brought.append([new.url for new in lines.values()])
        failure = self.failures.pop(0) if self.failures else self.refuses
        if isinstance(failure, StoreError):
            raise failure
        return failure


class Followed:
    """A file that is looked at when a test says so."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "endpoints.jsonl"
        self.database = Database()
        self.said: list[str] = []
        self.file = EndpointsFile(self.path, self.database, self.said.append)

    def write(self, *urls: str) -> None:
        self.path.write_text("".join(json.dumps({"url": url}) + "\n" for url in urls))

    async def look(self, times: int = 2) -> None:
        for _ in range(times):
            await self.file.look()


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


A, B = "http://localhost:1/a", "http://localhost:1/b"


async def test_a_file_counts_when_two_looks_find_the_same(followed: Followed) -> None:
    """What somebody is writing is not read: an empty file would disable everything. Once it counted, it does not again."""
    followed.write(A)
    await followed.look(1)
    assert [] == followed.database.brought
    await followed.look(3)
    assert [[A]] == followed.database.brought
    followed.path.write_text("")
    await followed.look(1)
    followed.write(A, B)
    await followed.look(3)
    assert [[A], [A, B]] == followed.database.brought
    assert [] == followed.said


async def test_what_changes_while_it_is_read_is_read_again(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Path) -> dict[int, NewEndpoint]:
        monkeypatch.undo()
        followed.write(A, B)
        return {1: NewEndpoint(A)}

    followed.write(A)
    await followed.look(1)
    monkeypatch.setattr("worker.dev.endpoints_file.read_endpoints", read)
    await followed.look(3)
    assert [[A, B]] == followed.database.brought


async def test_a_file_that_is_not_there_changes_nothing(followed: Followed) -> None:
    """At the start, too. It is said each time that it has gone."""
    await followed.look(4)
    followed.write(A)
    await followed.look()
    followed.path.unlink()
    await followed.look(4)
    assert [[A]] == followed.database.brought
    assert 2 == len(followed.said)
    assert all(f"{followed.path}: it is not there" in said for said in followed.said)


async def test_a_mistake_is_said_once_and_changes_nothing(followed: Followed) -> None:
    followed.path.write_text("{")
    await followed.look(4)
    assert [] == followed.database.brought
    (said,) = followed.said
    assert said.startswith(f"{followed.path}: line 1: not JSON")
    assert said.endswith("; the endpoints stay as they were")


async def test_a_line_that_is_refused_is_named_once(followed: Followed) -> None:
    """The others hold, and it is not tried again before the file changes."""
    followed.write(A, B)
    followed.database.refuses = {2: EndpointRefusedError("no")}
    await followed.look(4)
    assert [[A, B]] == followed.database.brought
    assert [f"{followed.path}: line 2: no; the other lines hold"] == followed.said


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (DatabaseUnavailableError("away"), []),  # the worker says so
        (DatabaseError("deadlock detected", "40P01"), ["deadlock detected; it is tried again"]),
        ({1: DatabaseError("deadlock detected", "40P01")}, ["line 1: deadlock detected; the other lines hold"]),
    ],
)
async def test_what_may_pass_is_tried_again(
    followed: Followed, failure: StoreError | dict[int, Exception], said: list[str]
) -> None:
    """Until it has passed, and said once."""
    followed.write(A)
    followed.database.failures = [failure] * 3
    await followed.look(8)
    assert [[A]] * 4 == followed.database.brought
    assert [f"{followed.path}: {text}" for text in said] == followed.said
