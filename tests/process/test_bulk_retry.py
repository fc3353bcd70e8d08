"""A bulk retry: the command is killed, or left and joined again; workers die; each delivery is retried once."""

import json
import os
import pty
import signal
import sys
from collections import Counter
from subprocess import DEVNULL, PIPE
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from fleet import ROOT, Receiver, Worker, pythons, until

from worker.store.database import Database

pytestmark = [pytest.mark.alone, pytest.mark.sql]

DEAD = 300
RETRY = ("deliveries", "retry", "--tenant", "t", "--yes", "--format", "json")

ALL_DIE = """
    with gone as (delete from webhook.pending returning *)
    insert into webhook.finished
        (id, finished_at, state, endpoint_id, event_id, event_created_at, payload_bytes, attempt, last_error)
    select id, clock_timestamp(), 'dead', endpoint_id, event_id, event_created_at, payload_bytes, 1, 'http_status' from gone
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "worker", *words]


async def die(database: Database, url: str) -> None:
    """Make the dead deliveries."""
    await database.value("select id from webhook.create_endpoint($1::text, 't')", url)
    await database.value(
        "select count(*) from webhook.enqueue_many("
        "array_fill('t'::text, array[$1::int]), array_fill('{}'::text, array[$1::int]), 't')",
        DEAD,
    )
    await database.script([ALL_DIE])


@pytest.mark.fault(66)
async def test_a_bulk_retry_whose_command_and_worker_are_killed(dsn: str, database: Database) -> None:
    """SIGKILL to the one that follows it, and to a worker in the middle; then run again: each delivery arrives once more."""
    environment = {**os.environ, "DATABASE_URL": dsn}
    done = "select coalesce(sum(done), 0) from webhook.job"
    receiver = Receiver()
    async with receiver.listening():
        await die(database, receiver.url())
        await database.value("select webhook.pause_endpoint(1)")  # until the end: whoever is killed has nothing on the wire
        async with await anyio.open_process(command(*RETRY, "--rate", "40"), cwd=ROOT, env=environment) as first:
            await until(lambda: database.value("select count(*) from webhook.job"))
            first.kill()
        with Worker(dsn, python=pythons()[0]) as victim:
            await until(lambda: database.value(done))
            victim.kill()
        again = await anyio.run_process(command(*RETRY, "--rate", "10000", "--detach"), cwd=ROOT, env=environment)
        left = json.loads(again.stdout)["total"]
        with Worker(dsn, python=pythons()[-1]):
            await until(lambda: database.value("select count(*) = 2 from webhook.job where state = 'done'"))
            await database.value("select webhook.resume_endpoint(1)")
            await until(lambda: len(receiver.arrivals) >= DEAD)
            await until(lambda: database.value("select count(*) = $1::int from webhook.finished", DEAD))
    audited = await database.rows("select delivery_id from webhook.audit where action = 'delivery.retry'")

    assert 0 < left < DEAD
    assert {1} == set(Counter(arrival.headers["webhook-id"] for arrival in receiver.arrivals).values())
    assert (DEAD, DEAD) == (len(audited), len({row["delivery_id"] for row in audited}))


async def test_a_job_is_left_and_joined_again(dsn: str, database: Database) -> None:
    """Ctrl-C leaves the bar, not the job: it says how to join it again, and whoever does sees it end."""
    await die(database, "https://203.0.113.7/")
    job_id = await database.value("select webhook.create_job('retry', '{\"state\": \"dead\"}', 100)")
    follow = command("jobs", "show", str(job_id), "--follow", "--format", "json")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "DATABASE_URL": dsn, "TERM": "xterm", "COLUMNS": "100"}
    try:
        async with await anyio.open_process(follow, cwd=ROOT, env=environment, stdout=PIPE, stderr=theirs) as first:
            shown = b""
            while b"retry: running" not in shown:
                shown += await anyio.to_thread.run_sync(os.read, ours, 4096)
            first.send_signal(signal.SIGINT)
            left = await read(first)
            shown += os.read(ours, 65536)
        async with await anyio.open_process(follow, cwd=ROOT, env=environment, stdout=PIPE, stderr=DEVNULL) as joined:
            while (await database.value("select state from webhook.job")) == "running":
                await database.script(["update webhook.job set planned_until = '-infinity'"])
                await database.value("select webhook.job_step()")
            ended = await read(joined)
    finally:
        os.close(ours)
        os.close(theirs)

    assert (0, "running") == (first.returncode, left["state"])
    assert f"webhook-worker jobs show {job_id} --follow" in " ".join(shown.decode().split())
    assert (0, "done", DEAD) == (joined.returncode, ended["state"], ended["done"])


async def read(process: Process) -> dict[str, Any]:
    """Return the object that a process printed when it ended."""
    assert process.stdout
    printed = b"".join([part async for part in process.stdout])
    await process.wait()
    return dict(json.loads(printed))
