"""Bringing a database to this release's schema, and telling whether a worker may run on it."""

from dataclasses import dataclass

from worker import __version__
from worker.store.database import Database
from worker.store.sql import functions, functions_hash, migrations, statements


class IncompatibleSchemaError(Exception):
    """This worker and this database do not fit together. The text says which of them to bring up to date."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database says of itself. `message_id_prefix` is part of every `webhook-id`."""

    version: int
    oldest_worker: str
    message_id_prefix: str
    functions_hash: str


def script(applied: int = 0) -> list[str]:
    """Return the texts that bring a database from migration `applied` to this release, after `migrate_begin`."""
    sql = statements()
    steps = []
    for number, name, text in migrations():
        if number > applied:
            mark = sql["migrate_mark"].replace(":number", str(number)).replace(":name", name)
            steps += [text, mark.replace(":version", __version__)]
    return [*steps, functions(), sql["migrate_end"].replace(":hash", functions_hash())]


async def migrate_up(database: Database) -> list[str]:
    """Apply what is missing, in one transaction; return the names of what was applied. Safe to run by two at once."""
    sql = statements()
    encoding = await database.value(sql["encoding"])
    if encoding != "UTF8":
        message = f"the database is encoded in {encoding}; only UTF8 is supported: create another one"
        raise IncompatibleSchemaError(message)
    async with database.transaction():
        await database.script([sql["migrate_begin"]])
        applied = await database.value(sql["migrate_applied"])
        names = [name for number, name, _ in migrations() if number > applied]
        newest = max(number for number, _, _ in migrations())
        if applied > newest:
            message = f"the database is at migration {applied}, this release ends at {newest}: upgrade webhook-worker"
            raise IncompatibleSchemaError(message)
        stale = applied == 0 or (await _read(database)).functions_hash != functions_hash()
        if names or stale:
            await database.script(script(applied))
    return names + (["functions"] if stale else [])


async def read_schema(database: Database) -> Schema:
    """Return what the database says of itself, or raise IncompatibleSchemaError unless this worker may run on it."""
    if not await database.value(statements()["migrate_exists"]):
        message = "the database has no webhook schema: run `webhook-worker migrate up`"
        raise IncompatibleSchemaError(message)
    schema = await _read(database)
    if _release(schema.oldest_worker) > _release(__version__):
        message = f"the schema needs webhook-worker {schema.oldest_worker} or newer, this is {__version__}: upgrade it"
        raise IncompatibleSchemaError(message)
    newest = max(number for number, _, _ in migrations())
    if schema.version < newest:
        message = f"the schema is at migration {schema.version}, this worker needs {newest}: run `webhook-worker migrate up`"
        raise IncompatibleSchemaError(message)
    return schema


async def _read(database: Database) -> Schema:
    row = (await database.rows(statements()["schema"]))[0]
    return Schema(row["schema_version"], row["oldest_worker"], row["message_id_prefix"], row["functions_hash"])


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])
