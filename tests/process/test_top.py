"""`top` in a real terminal, and where there is none."""

import subprocess
import sys
from functools import partial

import anyio
import pytest
from fleet import ROOT, Receiver, Worker, until
from terminal import Terminal, needs_tmux, record, terminal

from worker.cli.app import main
from worker.store.database import Database

pytestmark = pytest.mark.alone

ENQUEUE = """
select count(*)
from webhook.enqueue_many(array_fill('e'::text, array[$1::int]), array_fill('{}'::text, array[$1::int]), $2::text)
"""


async def screen_has(shown: Terminal, *texts: str) -> None:
    await until(lambda: all(text in shown.screen() for text in texts), every=0.2)


@needs_tmux
@pytest.mark.sql
async def test_it_shows_a_fleet_in_a_terminal(dsn: str, database: Database) -> None:
    """Rates, a backlog, the endpoint that has it, a circuit, a worker; it follows a new size, and q leaves well."""
    async with Receiver().listening() as receiver:
        for tenant, url, settings in (
            ("acme", receiver.url("/acme"), '{"rate": 2}'),
            ("globex", receiver.url("/globex"), "{}"),
            ("initech", "http://127.0.0.1:9/hook", "{}"),
        ):
            await database.value(
                "select id from webhook.create_endpoint($1::text, $2::text, $3::text::jsonb)", url, tenant, settings
            )
        with Worker(dsn) as worker, terminal(110, 20) as shown:
            await database.value(ENQUEUE, 1500, "acme")
            await database.value(ENQUEUE, 30, "initech")
            shown.run(["top"], {"DATABASE_URL": dsn})
            await screen_has(shown, "webhook-worker top", "running", f":{worker.process.pid}:", "acme", "1,000+")
            async with anyio.create_task_group() as producer:
                producer.start_soon(_produce, database)
                await until(lambda: delivered(shown.screen()) >= 10, every=0.2)
                await screen_has(shown, "circuit open", "1 failing")
                record("top", shown.screen())
                producer.cancel_scope.cancel()
            shown.resize(60, 12)
            await until(
                lambda: all(len(line) <= 60 for line in shown.screen().splitlines()) and "…" in shown.screen(), every=0.2
            )
            assert "webhook-worker top" in shown.screen()
            shown.press("q")
            await screen_has(shown, "ended with 0")
            assert "backlog" not in shown.screen()
            worker.terminate()
            await worker.wait()


async def _produce(database: Database) -> None:
    while True:
        with anyio.CancelScope(shield=True):
            await database.value(ENQUEUE, 10, "globex")
        await anyio.sleep(0.1)


def delivered(screen: str) -> float:
    """Read the rate from a screen."""
    for line in screen.splitlines():
        if line.startswith("enqueued"):
            return float(line.split("delivered ")[1].split("/s")[0].replace(",", ""))
    return 0.0


@needs_tmux
@pytest.mark.sql
async def test_ctrl_c_leaves_well(dsn: str) -> None:
    with terminal() as shown:
        shown.run(["top"], {"DATABASE_URL": dsn})
        await screen_has(shown, "webhook-worker top", "backlog    0")
        shown.press("C-c")
        await screen_has(shown, "ended with 0")


async def test_without_a_terminal_it_prints_one_frame(dsn: str, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """And what strangers have written there does nothing to whoever looks."""
    await database.value("select id from webhook.create_endpoint('https://x.test/', $1::text)", "a\x1b[31mb")
    await database.value(ENQUEUE, 3, "a\x1b[31mb")
    await database.value("select webhook.claim('w', 1, 100000)")
    code = await anyio.to_thread.run_sync(partial(main, ["top", "--once", "--database-url", dsn]))
    out, err = capsys.readouterr()
    assert (0, "") == (code, err)
    assert "backlog    2, the oldest due" in out
    assert "a\\x1b[31mb" in out
    assert "\x1b" not in out
    assert 2 == await anyio.to_thread.run_sync(partial(main, ["top", "--database-url", dsn]))


def test_rich_is_imported_for_its_frames_only() -> None:
    """The other commands start without it."""
    code = "import sys, worker.cli.top; sys.exit('rich.live' in sys.modules or 'worker.cli.top_frame' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode
