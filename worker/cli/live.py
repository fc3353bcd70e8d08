"""Commands that go on until somebody ends them: they ask again and again, and outlive the database's absence."""

import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import anyio

from worker.cli.session import NOT_MIGRATED
from worker.settings import ExitCode
from worker.store.database import Database, DatabaseError, DatabaseUnavailableError, connect

RETRY_SECONDS = 1.0

_PASSES = ("40001", "40P01", "55P03", "57014", *NOT_MIGRATED)
"""SQLSTATEs of what passes: a conflict, a limit on waiting or on time, a database that is just being made anew."""

Result = TypeVar("Result")


async def ask_again(
    dsn: str, ask: Callable[[Database], Awaitable[Result]], every_seconds: float, away: Callable[[str], None]
) -> AsyncGenerator[Result, None]:
    """Yield what `ask` returns, again and again. While the database does not answer, say so once by `away`, and go on trying.

    The first call may raise: a wrong address is no outage.
    """
    database = connect(dsn)
    reached, is_away = False, False
    try:
        while True:
            try:
                result = await ask(database)
            except (DatabaseUnavailableError, DatabaseError) as error:
                if not reached or (isinstance(error, DatabaseError) and error.sqlstate not in _PASSES):
                    raise
                if not is_away:
                    what = "refused" if isinstance(error, DatabaseError) else "is out of reach"
                    away(f"the database {what}, and is tried again: {error}")
                is_away = True
                await anyio.sleep(RETRY_SECONDS)
                continue
            if is_away:
                away("the database is back")
            reached, is_away = True, False
            yield result
            await anyio.sleep(every_seconds)
    finally:
        with anyio.CancelScope(shield=True):
            await database.close()


def run_until_interrupted(work: Callable[[], Awaitable[Result]]) -> Result | None:
    """Run it; return None if Ctrl-C or SIGTERM ended it, which is how it ends well.

    By a cancel scope, which goes on cancelling until it is obeyed: what asyncio makes of Ctrl-C is one cancellation, and a call
    that is just coming back may lose it.
    """
    # Until somebody watches. At once, since an exception may be swallowed by whatever the signal interrupts.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os._exit(ExitCode.OK))

    async def watched() -> Result | None:
        result = None
        async with anyio.create_task_group() as group:

            async def interrupted() -> None:
                with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
                    async for _ in signals:
                        group.cancel_scope.cancel()
                        return

            group.start_soon(interrupted)
            result = await work()
            group.cancel_scope.cancel()
        return result

    with suppress(KeyboardInterrupt):  # it came before anybody watched
        return anyio.run(watched)
    return None
