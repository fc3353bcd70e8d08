"""What every command does around its own work: open the database, run, name the actor, and say what went wrong."""

import os
import re
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from worker.cli.output import say
from worker.endpoints import EndpointRefusedError, Endpoints, NoSuchEndpointError
from worker.settings import ConfigurationError, ExitCode, GuardRails, Settings, without_password
from worker.store.database import Database, DatabaseError, DatabaseUnavailableError, connect
from worker.store.migrate import IncompatibleSchemaError

Result = TypeVar("Result")

COMMAND_SECONDS_MAX = 600.0
"""A command may read much: whoever waits for it sees that it takes long, and has Ctrl-C."""

_SPEAKER = re.compile(r"webhook(\.\w+)?: ")
_NO_DATA_FOUND = "P0002"
NOT_MIGRATED = ("3F000", "42P01", "42883", "42703")
"""SQLSTATEs of a schema, table, function or column that does not exist."""


class NothingMatchedError(Exception):
    """There is no such thing, or nothing matched the filters."""


class FailedError(Exception):
    """The command did not do all that it was asked. The text says what not."""


def with_database(database_url: str | None, work: Callable[[Database], Awaitable[Result]]) -> Result:
    """Run `work` on a connection."""
    settings = Settings.load(database_url=database_url)

    async def run() -> Result:
        database = connect(settings.database_url, query_seconds_max=COMMAND_SECONDS_MAX)
        try:
            return await work(database)
        finally:
            with anyio.CancelScope(shield=True):
                await database.close()

    return anyio.run(run)


def with_endpoints(
    database_url: str | None,
    work: Callable[[Endpoints], Awaitable[Result]],
    guards: GuardRails | None = None,
) -> Result:
    """Run `work` on the endpoints, as this user."""
    settings = Settings.load(database_url=database_url, guards=guards)

    async def run() -> Result:
        async with Endpoints(
            settings.database_url,
            actor=actor(),
            rules=settings.rules,
            allow_http=settings.allow_http,
            key_ring=settings.key_ring,
        ) as endpoints:
            return await work(endpoints)

    return anyio.run(run)


def actor() -> str:
    """Return the name of the operating system's user, whatever the environment says it is."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user often has no entry
        return f"uid {os.getuid()}"


def guarded(command: Callable[[], int]) -> int:
    """Run a command; turn what it raises into one line on stderr and an exit code."""
    try:
        return _ungrouped(command)
    except (ConfigurationError, IncompatibleSchemaError) as error:
        return _failed(error, ExitCode.CONFIGURATION)
    except DatabaseUnavailableError as error:
        return _failed(f"the database is out of reach: {without_password(str(error))}", ExitCode.DATABASE_UNREACHABLE)
    except DatabaseError as error:
        return _refused(error)
    except (NothingMatchedError, NoSuchEndpointError) as error:
        return _failed(error, ExitCode.NOTHING_MATCHED)
    except (FailedError, EndpointRefusedError) as error:
        return _failed(error, ExitCode.FAILED)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return 130


def _ungrouped(command: Callable[[], int]) -> int:
    """Run a command; what ended a group of its tasks is raised as itself, the first if there are several."""
    try:
        return command()
    except BaseExceptionGroup as group:
        error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    raise error


def told(error: DatabaseError) -> list[str]:
    """Return what Postgres said, and after it its advice, if it has any."""
    line = str(error).partition("\n")[0]  # a driver may append the detail and the hint
    speaker = _SPEAKER.match(line)
    message = line[speaker.end() :] if speaker else line
    return [message, error.hint] if error.hint else [message]


def _refused(error: DatabaseError) -> int:
    message, *advice = told(error)
    if error.sqlstate in NOT_MIGRATED:
        return _failed(f"{message}: run `webhook-worker migrate up`", ExitCode.CONFIGURATION)
    code = _failed(message, ExitCode.NOTHING_MATCHED if error.sqlstate == _NO_DATA_FOUND else ExitCode.FAILED)
    for line in advice:
        say(f"hint: {line}")
    return code


def _failed(error: Exception | str, code: ExitCode) -> int:
    say(f"webhook-worker: {' '.join(str(error).split())}")
    return code
