"""docs/reference/sql.md: the functions that others than the owner may call, from the database's own catalogue."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from psycopg import errors

from reference.markdown import code, page, prose, table
from worker.store.database import Database

ROLES = Path(__file__).parents[3] / "deploy/postgres/roles.sql"
LINE_MAX = 100

INTRODUCTION = """
The functions of the schema `webhook` that others than its owner may call, with the roles of `deploy/postgres/roles.sql`
([rights](../operations.md#rights)). Each runs with the owner's rights, in the transaction of whoever calls it. In psql,
`\\df+ webhook.enqueue` says the same. What a call may raise is listed with its SQLSTATE; … stands for what is in question.
Settings have to be within their [constraints](errors.md#constraints) as well. [Errors](errors.md) has the codes by themselves.
"""

AUDIENCES = {
    "webhook_producer": (
        "For producers",
        "Role `webhook_producer`. Operators may call `enqueue`, too, but not `enqueue_many`.",
    ),
    "webhook_operator": (
        "For operators and services",
        "Role `webhook_operator`. The commands and `worker.endpoints` call these. Each change leaves a row in `webhook.audit`.",
    ),
    "webhook_worker": ("For workers", "Role `webhook_worker`. Nobody else has a use for them; their arguments may change."),
}

ALL = """
select p.proname as name, pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result,
       coalesce(obj_description(p.oid, 'pg_proc'), '') as comment, pg_get_functiondef(p.oid) as definition
from pg_proc as p where p.pronamespace = 'webhook'::regnamespace order by p.proname, p.oid
"""

_RAISE = re.compile(r"raise exception '((?:[^']|'')*)'((?:[^;']|'(?:[^']|'')*')*);")
_CONDITION = re.compile(r"errcode = '(\w+)'")
_HINT = re.compile(r"hint = (.*)", re.DOTALL)
_TEXT = re.compile(r"(?:(?<=hint = )|(?<=then )|(?<=else ))'((?:[^']|'')*)'")
_CALL = re.compile(r"\bwebhook\.(\w+)\(")


@dataclass(frozen=True, order=True)
class Refusal:
    """What a function raises; `condition` is Postgres' name of the code."""

    sqlstate: str
    condition: str
    message: str
    hint: str


@dataclass(frozen=True)
class Function:
    """One overload of a function."""

    name: str
    arguments: str
    result: str
    comment: str
    definition: str

    @property
    def signature(self) -> str:
        """As psql shows it; on several lines if it is long."""
        plain = re.sub(r"::(double precision|\w+)(\[\])?", "", self.arguments)
        line = f"webhook.{self.name}({plain}) returns {self.result}"
        if len(line) <= LINE_MAX:
            return line
        arguments = plain.replace(", ", ",\n    ")
        return f"webhook.{self.name}(\n    {arguments}\n) returns {self.result}"


class Catalogue:
    """The functions of a database."""

    def __init__(self, functions: list[Function]) -> None:
        self.functions = functions

    @classmethod
    async def read(cls, database: Database) -> "Catalogue":
        """Ask the database."""
        return cls([Function(**row) for row in await database.rows(ALL)])

    def overloads(self, name: str) -> list[Function]:
        """Return those of this name."""
        return [function for function in self.functions if function.name == name]

    def refusals(self, name: str) -> list[Refusal]:
        """Return what a call of this function may raise, in it and in what it calls."""
        seen: set[str] = set()
        waiting = {name}
        found: set[Refusal] = set()
        while waiting:
            seen |= waiting
            definitions = "\n".join(function.definition for each in waiting for function in self.overloads(each))
            found |= set(raised(definitions))
            waiting = set(_CALL.findall(definitions)) - seen
        return sorted(found)


def raised(definition: str) -> Iterator[Refusal]:
    """Read the `raise` statements of a function."""
    for message, rest in _RAISE.findall(definition):
        joined = re.sub(r"'\s*\n\s*'", "", rest)  # SQL's own way to continue a text
        joined = re.sub(r"' \|\| \w+ \|\| '", "…", joined)
        condition = _CONDITION.search(joined)
        assert condition, f"an error without a code of its own: {message}"
        hint = _HINT.search(joined)
        hints = _TEXT.findall(re.sub(r"\s+", " ", hint[0])) if hint else []
        yield Refusal(sqlstate(condition[1]), condition[1], _read(message), " Or: ".join(map(_read, hints)))


def sqlstate(condition: str) -> str:
    """Return the code of a condition: no_data_found is P0002."""
    return str(getattr(errors, condition.title().replace("_", "")).sqlstate)


def _read(literal: str) -> str:
    return literal.replace("''", "'").replace("%", "…")


def callers() -> dict[str, list[str]]:
    """Return who may call what, as roles.sql says."""
    found = re.search(r"may constant jsonb := '(.*?)';", ROLES.read_text(), re.DOTALL)
    assert found
    allowed: dict[str, list[str]] = json.loads(found[1])
    return allowed


async def text(database: Database) -> str:
    """Return the page."""
    return page("SQL functions", INTRODUCTION, *_parts(await Catalogue.read(database)))


def _parts(catalogue: Catalogue) -> Iterator[str]:
    written: set[str] = set()
    allowed = callers()
    for role, (title, words) in AUDIENCES.items():
        yield f"## {title}"
        yield words
        for name in allowed[role]:
            if name not in written:
                written.add(name)
                yield from _part(catalogue, name)


def _part(catalogue: Catalogue, name: str) -> Iterator[str]:
    overloads = catalogue.overloads(name)
    (comment,) = {function.comment for function in overloads}
    assert comment, f"webhook.{name} has no comment: give it one in sql/functions/800_comments.sql"
    yield f"### {name}"
    yield "```text\n" + "\n".join(function.signature for function in overloads) + "\n```"
    yield prose(comment)
    rows = [(code(each.sqlstate), prose(each.message), prose(each.hint)) for each in catalogue.refusals(name)]
    if rows:
        yield table(("SQLSTATE", "message", "hint"), rows)
