"""Sealed and rotated keys, from the command line to the receiver; and that no key shows anywhere on the way."""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from fleet import ROOT, Receiver, Worker, until
from standardwebhooks.webhooks import Webhook

from worker.core.sealing import new_line
from worker.store.database import Database

LISTS = ("endpoints list", "audit list", "keys rotate", "deliveries list", "attempts list", "check --security")
OPTIONS = ("--allow-network", "127.0.0.0/8", "--allow-http")


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with one key-encryption key, which every command and worker of the test is told of."""
    path = tmp_path / "key"
    path.write_text(new_line("2026-11"))
    path.chmod(0o600)
    monkeypatch.setenv("WEBHOOK_WORKER_KEY_FILE", str(path))
    return path


@pytest.fixture
def said() -> list[str]:
    """Everything that commands and workers have printed."""
    return []


async def command(dsn: str, said: list[str], *words: object, stdin: str = "") -> Any:
    """Run a command in a process of its own; return its JSON."""
    done = await anyio.run_process(
        [sys.executable, "-m", "worker", *map(str, words), "--format", "json"],
        cwd=ROOT, env={**os.environ, "DATABASE_URL": dsn}, input=stdin.encode(), check=False,
    )  # fmt: skip
    said += [done.stdout.decode(), done.stderr.decode()]
    assert done.returncode == 0, said[-1]
    return json.loads(done.stdout)


async def deliver_one(dsn: str, database: Database, said: list[str]) -> None:
    """Enqueue one event, and let a worker deliver what is due."""
    await database.value("select webhook.enqueue('t', '{}')")
    with Worker(dsn, "--once") as worker:
        said.append(await anyio.Path(f"/proc/{worker.process.pid}/cmdline").read_text())
        status, text = await worker.wait()
    said.append(text)
    assert status == 0, text


@pytest.mark.fault(40)
async def test_a_sealed_key_signs_and_a_rotation_overlaps(
    dsn: str, database: Database, key_file: Path, said: list[str]
) -> None:
    """The receiver verifies with the key that was shown; after a rotation with either, and then with the new one only."""
    async with Receiver().listening() as receiver:
        made = await command(dsn, said, "endpoints", "add", receiver.url(), *OPTIONS)
        await deliver_one(dsn, database, said)
        rotated = await command(dsn, said, "endpoints", "rotate-key", made["id"], "--overlap", "1h", "--reason", "yearly")
        await deliver_one(dsn, database, said)
        await database.value("update webhook.endpoint_key set expires_at = now() where expires_at < 'infinity' returning id")
        await deliver_one(dsn, database, said)
    signatures = [arrival.headers["webhook-signature"] for arrival in receiver.arrivals]

    assert [1, 2, 1] == [len(signature.split(" ")) for signature in signatures]
    first, second, third = receiver.arrivals
    for key, arrival in ((made, first), (made, second), (rotated, second), (rotated, third)):
        Webhook(key["key"]).verify(arrival.body, arrival.headers)
    assert 0 == await database.value("select count(*) from webhook.endpoint_key where sealed_with is null")


async def test_an_asymmetric_key_signs(dsn: str, database: Database, key_file: Path, said: list[str]) -> None:
    """The public half, which `endpoints keys` shows as often as anybody asks, verifies the request."""
    import nacl.signing

    async with Receiver().listening() as receiver:
        made = await command(dsn, said, "endpoints", "add", receiver.url(), "--asymmetric", *OPTIONS)
        await deliver_one(dsn, database, said)
    (listed,) = await command(dsn, said, "endpoints", "keys", made["id"])
    (arrival,) = receiver.arrivals
    scheme, _, signature = arrival.headers["webhook-signature"].partition(",")
    content = f"{arrival.headers['webhook-id']}.{arrival.headers['webhook-timestamp']}.".encode() + arrival.body

    assert ("v1a", "v1a", made["key"]) == (scheme, listed["scheme"], listed["public_key"])
    verifier = nacl.signing.VerifyKey(base64.b64decode(made["key"].removeprefix("whpk_")))
    verifier.verify(content, base64.b64decode(signature))  # or it raises


@pytest.mark.fault(40)
async def test_a_key_that_cannot_be_unsealed_pauses_its_endpoint(
    dsn: str, database: Database, key_file: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent unsigned, no attempt is spent, its siblings go on; with the key at hand again, all is delivered."""
    async with Receiver().listening() as receiver:
        made = await command(dsn, said, "endpoints", "add", receiver.url("/sealed"), *OPTIONS)
        await database.value("select id from webhook.create_endpoint($1::text)", receiver.url("/plain"))
        monkeypatch.delenv("WEBHOOK_WORKER_KEY_FILE")
        await deliver_one(dsn, database, said)
        found = await command(dsn, said, "endpoints", "show", made["id"])
        (held,) = await database.rows("select state, attempts from webhook.deliveries where endpoint_id = $1", made["id"])

        assert (["/plain"], "paused") == ([arrival.path for arrival in receiver.arrivals], found["state"])
        assert "cannot be unsealed: it is sealed with '2026-11', which is not in the key file" in found["state_reason"]
        assert {"state": "held", "attempts": 0} == held
        assert f"endpoint {made['id']} is paused" in said[-3] + said[-4] + said[-5]

        monkeypatch.setenv("WEBHOOK_WORKER_KEY_FILE", str(key_file))
        await command(dsn, said, "endpoints", "resume", made["id"])
        with Worker(dsn) as worker:
            await until(lambda: len(receiver.arrivals) == 2)
            worker.terminate()
            said.append((await worker.wait())[1])
    Webhook(made["key"]).verify(receiver.arrivals[1].body, receiver.arrivals[1].headers)


@pytest.mark.fault(40)
async def test_a_key_that_is_none_pauses_its_endpoint_too(dsn: str, database: Database, said: list[str]) -> None:
    """Somebody wrote to the table past the functions: the worker goes on, with everybody else's."""
    async with Receiver().listening() as receiver:
        bad, _ = [
            await database.value("select id from webhook.create_endpoint($1::text)", receiver.url(path))
            for path in ("/bad", "/good")
        ]
        key = '{"scheme": "v1a", "secret": "c2l4dGVlbiBieXRlcy4uLg==", "public": "' + "A" * 43 + '="}'
        await database.value("select webhook.rotate_key($1::bigint, $2::text::jsonb, '0s')", bad, key)
        await deliver_one(dsn, database, said)
    reason = await database.value("select state_reason from webhook.endpoints where id = $1", bad)

    assert ["/good"] == [arrival.path for arrival in receiver.arrivals]
    assert "it is no v1a key" in reason


async def test_a_sealed_endpoint_gets_no_plain_key(dsn: str, database: Database, key_file: Path, said: list[str]) -> None:
    """Who forgot the key file is told so, and nothing is changed."""
    made = await command(dsn, said, "endpoints", "add", "https://127.0.0.1/", *OPTIONS)
    done = await anyio.run_process(
        [sys.executable, "-m", "worker", "endpoints", "rotate-key", str(made["id"])],
        cwd=ROOT, env={**os.environ, "DATABASE_URL": dsn, "WEBHOOK_WORKER_KEY_FILE": ""}, check=False,
    )  # fmt: skip

    assert 1 == done.returncode
    assert b"are sealed, the new one would not be" in done.stderr
    assert 1 == await database.value("select count(*) from webhook.endpoint_key")


@pytest.mark.fault(68)
async def test_no_key_shows_anywhere(dsn: str, database: Database, key_file: Path, said: list[str]) -> None:
    """A canary key and its key-encryption key are in no output, log, error, audit row, attempt or process list."""
    canary = "whsec_" + base64.b64encode(b"canary-" * 4).decode()
    async with Receiver().listening() as receiver:
        made = await command(dsn, said, "endpoints", "add", receiver.url(), "--key", "-", *OPTIONS, stdin=canary + "\n")
        assert canary == json.loads(said[0])["key"]  # once, to who gave it
        said.clear()
        await command(dsn, said, "endpoints", "rotate-key", made["id"], "--key", "-", "--overlap", "1h", stdin=canary + "\n")
        assert canary == json.loads(said[0])["key"]
        said.clear()
        await deliver_one(dsn, database, said)
        for words in (f"endpoints show {made['id']}", f"endpoints keys {made['id']}", *LISTS):
            await command(dsn, said, *words.split())
    sealing = await anyio.Path(key_file).read_text()
    await anyio.Path(key_file).write_text(f"{sealing}\n{canary}")  # a bad line
    for words in ("endpoints list", "keys rotate", "check --security", "run --once"):
        refused = await anyio.run_process(
            [sys.executable, "-m", "worker", *words.split()], cwd=ROOT, env={**os.environ, "DATABASE_URL": dsn}, check=False
        )
        assert 78 == refused.returncode
        said += [refused.stdout.decode(), refused.stderr.decode()]
    for table in ("audit", "attempt", "event", "finished", "endpoint", "endpoint_sched", "claim_batch", "endpoint_key"):
        said.append(await database.value(f"select coalesce(string_agg(t::text, chr(10)), '') from webhook.{table} as t"))
    hidden = (canary[6:], "canary", b"canary".hex(), sealing.partition(":")[2])

    assert "canary" not in receiver.arrivals[0].headers["webhook-signature"]
    assert not [(text, secret) for text in said for secret in hidden if secret in text]
