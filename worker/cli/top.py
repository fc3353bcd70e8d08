"""`webhook-worker top`."""

import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from worker.cli.live import ask_again, run_until_interrupted
from worker.cli.options import DatabaseUrl
from worker.cli.session import with_database
from worker.cli.top_look import Looker
from worker.settings import Settings, without_password

if TYPE_CHECKING:
    from rich.live import Live

EVERY_SECONDS = 1.0
ONCE_COLUMNS = 120
"""How wide a frame is where there is no terminal."""


def top(
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end; needs no terminal.")] = False,
    database_url: DatabaseUrl = None,
) -> None:
    """Watch rates, the backlog, the worst endpoints, workers and the database, every second. q or Ctrl-C leaves.

    Endpoints are those first in the queue that are due for longest, and those that fail most. Counts are bounded: 1,000+.
    """
    settings = Settings.load(database_url=database_url)
    if once:
        _print_once(settings)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise typer.BadParameter("this needs a terminal; --once prints one frame", param_hint="--once")

    async def watch() -> None:
        await _watch(settings.database_url)

    run_until_interrupted(watch)


def _print_once(settings: Settings) -> None:
    look = with_database(settings.database_url, Looker().look)

    from rich.console import Console

    from worker.cli.top_frame import Frame

    Console(width=None if sys.stdout.isatty() else ONCE_COLUMNS, highlight=False).print(Frame(look))


async def _watch(dsn: str) -> None:
    from rich.console import Console
    from rich.live import Live

    from worker.cli.top_frame import Frame

    shown: Frame | None = None
    trouble = ""
    looker = Looker()

    def away(text: str) -> None:
        """Say it in the frame: whoever leaves a full screen sees no line that was printed meanwhile."""
        nonlocal trouble
        trouble = "" if text.endswith("is back") else without_password(text)
        if shown is not None:
            live.update(Frame(shown.look, trouble), refresh=True)

    looks = ask_again(dsn, looker.look, EVERY_SECONDS, away)
    async with aclosing(looks):
        first = await anext(looks)  # what is wrong with the settings is said before the screen is taken
        shown = Frame(first)
        console = Console(highlight=False)
        with _keys_at_once(), Live(shown, console=console, screen=True, auto_refresh=False) as live:
            async with anyio.create_task_group() as group:
                group.start_soon(_leave_on_q, group.cancel_scope)
                group.start_soon(_redraw_on_resize, live)
                async for look in looks:
                    shown = Frame(look, trouble)
                    live.update(shown, refresh=True)


@contextmanager
def _keys_at_once() -> Iterator[None]:
    """Let keys come without Enter, and unseen."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


async def _leave_on_q(screen: anyio.CancelScope) -> None:
    while True:
        await anyio.wait_readable(sys.stdin)
        keys = os.read(sys.stdin.fileno(), 64)
        if b"q" in keys or not keys:
            screen.cancel()
            return


async def _redraw_on_resize(live: "Live") -> None:
    with anyio.open_signal_receiver(signal.SIGWINCH) as resizes:
        async for _ in resizes:
            live.refresh()
