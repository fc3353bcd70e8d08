"""The example receivers, each a real process on a real port: what a worker signs they accept, once, and nothing else."""

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from conftest import EMPTY, administer, run_aside, with_database
from fleet import ROOT, Worker
from test_docs import free_port

from worker.core.message import message_headers
from worker.core.signing import make_key, shown
from worker.store.database import connect

pytestmark = pytest.mark.sql

EXAMPLES = ROOT / "examples/receivers"
KEY, OTHER_KEY = make_key("v1"), make_key("v1")
NAMES = ("fastapi", "flask", "django", "node")
EVENTS = 3
SECONDS_MAX = 30.0
_ANOTHER = "v1,MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
"""A signature by a key that this receiver does not have, as during a rotation."""


@dataclass
class Receiver:
    """A running example. `ask` runs a query in its database, `tables` are what it calls its inbox and its balances."""

    port: int
    ask: Callable[[str], list[Any]]
    tables: tuple[str, str] = ("inbox", "balance")

    def balance(self, account: str) -> int:
        """Return an account's balance once everything that was received is done."""
        inbox, balance = self.tables
        wait_until(lambda: self.ask(f"select count(*) from {inbox} where done_at is null") == [0])
        return sum(self.ask(f"select cents from {balance} where account = '{account}'"))

    def post(self, webhook_id: str, body: bytes, /, **changed: str) -> int:
        """Send what a worker would, but for the headers that are `changed`; return the status."""
        headers = signed(webhook_id, body) | {name.replace("_", "-"): value for name, value in changed.items()}
        return httpx.post(f"http://127.0.0.1:{self.port}/hook", content=body, headers=headers, trust_env=False).status_code


def signed(webhook_id: str, body: bytes, key: Any = KEY, age_seconds: int = 0) -> dict[str, str]:
    return dict(message_headers([key], webhook_id, int(time.time()) - age_seconds, body))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def receivers(server_dsn: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Receiver]]:
    """Start all that can be started here, and let one worker deliver the same events to each."""
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("receivers")
        databases = [stack.enter_context(new_database(server_dsn, EMPTY)) for _ in range(2)]
        starts: dict[str, AbstractContextManager[Receiver]] = {
            "fastapi": fastapi(directory, databases[0]),
            "flask": flask(directory),
            "django": django(directory),
            "node": node(directory, databases[1]),
        }
        started = {name: stack.enter_context(start) for name, start in starts.items() if why_not(name) is None}
        for receiver in started.values():
            wait_until(lambda receiver=receiver: answers(receiver.port))  # type: ignore[misc]
        deliver(stack.enter_context(new_database(server_dsn, f"template {template}")), started)
        yield started


@pytest.fixture(params=NAMES)
def receiver(request: pytest.FixtureRequest, receivers: Mapping[str, Receiver]) -> Receiver:
    if reason := why_not(request.param):
        pytest.skip(reason)
    return receivers[request.param]


def test_what_a_worker_delivers_has_its_effect(receiver: Receiver) -> None:
    assert EVENTS * 5 == receiver.balance("delivered")


def test_the_same_id_has_its_effect_once(receiver: Receiver) -> None:
    """Also when the second time is a retry, with a timestamp and a signature of its own; another id is another event."""
    body = b'{"account": "once", "cents": 7}'
    later = signed("msg_once_1", body, age_seconds=-1)
    assert [204, 204, 204] == [
        receiver.post("msg_once_1", body),
        receiver.post("msg_once_1", body),
        receiver.post("msg_once_1", body, **{name.replace("-", "_"): value for name, value in later.items()}),
    ]
    assert 7 == receiver.balance("once")
    assert 204 == receiver.post("msg_once_2", body)
    assert 14 == receiver.balance("once")


def test_what_is_not_signed_right_is_refused(receiver: Receiver) -> None:
    """Another's key, another body, an old or a malformed timestamp, no signature: 400, and no effect."""
    body = b'{"account": "never", "cents": 7}'
    old = signed("msg_never_1", body, age_seconds=600)
    assert [400] * 6 == [
        receiver.post("msg_never_1", body, webhook_signature=signed("msg_never_1", body, OTHER_KEY)["webhook-signature"]),
        receiver.post("msg_never_1", body, webhook_signature=signed("msg_never_1", body + b" ")["webhook-signature"]),
        receiver.post(
            "msg_never_1", body, webhook_timestamp=old["webhook-timestamp"], webhook_signature=old["webhook-signature"]
        ),
        receiver.post("msg_never_1", body, webhook_timestamp="yesterday"),
        receiver.post("msg_never_1", body, webhook_signature="nonsense"),
        receiver.post("msg_never_1", body, webhook_signature=""),
    ]
    assert 0 == receiver.balance("never")


def test_one_signature_of_several_is_enough(receiver: Receiver) -> None:
    """As during a rotation of keys."""
    body = b'{"account": "rotated", "cents": 7}'
    both = f"{_ANOTHER} {signed('msg_rotated_1', body)['webhook-signature']}"
    assert 204 == receiver.post("msg_rotated_1", body, webhook_signature=both)
    assert 7 == receiver.balance("rotated")


def test_the_page_shows_these_files() -> None:
    """Each file that docs/receivers.md includes exists, and is linked, for those who read it where nothing is included."""
    page = (ROOT / "docs/receivers.md").read_text()
    included = re.findall(r'^--8<-- "(.+)"$', page, re.MULTILINE)
    assert 6 == len(included)
    assert [] == [path for path in included if not (ROOT / path).is_file() or f"](../{path})" not in page]


def why_not(name: str) -> str | None:
    """Say what is missing for an example, if anything is."""
    if name != "node":
        return None if find_spec(name) else f"{name} is not installed: make install"
    if not shutil.which("node"):
        return "node is not installed"
    found = (EXAMPLES / "node/node_modules/standardwebhooks").exists()
    return None if found else "run `npm install` in examples/receivers/node"


def deliver(dsn: str, receivers: Mapping[str, Receiver]) -> None:
    """Let a worker deliver some events to all of them."""

    async def enqueue() -> None:
        database = connect(dsn)
        for receiver in receivers.values():
            url = f"http://127.0.0.1:{receiver.port}/hook"
            await database.value("select id from webhook.create_endpoint($1::text, '', '{}', array[$2::text])", url, shown(KEY))
        for _ in range(EVENTS):
            await database.value("select webhook.enqueue('paid', $1::text)", json.dumps({"account": "delivered", "cents": 5}))
        await database.close()

    run_aside(enqueue)
    with Worker(dsn, "--once") as worker:
        _, said = worker.process.communicate(timeout=60)
    assert f"{EVENTS * len(receivers)} delivered" in said


@contextmanager
def fastapi(logs: Path, dsn: str) -> Iterator[Receiver]:
    port = free_port()
    with process(["-m", "uvicorn", "fastapi_receiver:app", "--port", port], EXAMPLES, logs / "fastapi", DATABASE_URL=dsn):
        yield Receiver(int(port), postgres(dsn))


@contextmanager
def flask(logs: Path) -> Iterator[Receiver]:
    port, file = free_port(), logs / "flask.db"
    command = ["-m", "flask", "--app", "flask_receiver"]
    with (
        process([*command, "run", "--port", port], EXAMPLES, logs / "flask", DATABASE=str(file)),
        process([*command, "work"], EXAMPLES, logs / "flask-work", DATABASE=str(file)),
    ):
        yield Receiver(int(port), sqlite(file))


@contextmanager
def django(logs: Path) -> Iterator[Receiver]:
    port, file = free_port(), logs / "django.db"
    there = EXAMPLES / "django_receiver"
    with process(["manage.py", "migrate"], there, logs / "django-migrate", DATABASE=str(file)) as migrating:
        assert 0 == migrating.wait(SECONDS_MAX), (logs / "django-migrate").read_text()
    with (
        process(["manage.py", "runserver", "--noreload", port], there, logs / "django", DATABASE=str(file)),
        process(["manage.py", "work"], there, logs / "django-work", DATABASE=str(file)),
    ):
        yield Receiver(int(port), sqlite(file), ("inbox_event", "inbox_balance"))


@contextmanager
def node(logs: Path, dsn: str) -> Iterator[Receiver]:
    port = free_port()
    with process(["receiver.js"], EXAMPLES / "node", logs / "node", program="node", DATABASE_URL=dsn, PORT=port):
        yield Receiver(int(port), postgres(dsn))


@contextmanager
def process(
    arguments: Sequence[str], directory: Path, log: Path, program: str = sys.executable, **environment: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process as long as the context lasts."""
    with log.open("wb") as output:
        running = subprocess.Popen(
            [program, *arguments], cwd=directory, stdout=output, stderr=output,
            env={**os.environ, "WEBHOOK_KEY": shown(KEY), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        )  # fmt: skip
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextmanager
def new_database(server_dsn: str, options: str) -> Iterator[str]:
    name = f"webhook_test_{uuid4().hex[:12]}"
    administer(server_dsn, f"create database {name} {options}")
    yield with_database(server_dsn, name)
    administer(server_dsn, f"drop database {name} with (force)")


def postgres(dsn: str) -> Callable[[str], list[Any]]:
    def ask(sql: str) -> list[Any]:
        found: list[Any] = []

        async def go() -> None:
            database = connect(dsn)
            found.extend(value for row in await database.rows(sql) for value in row.values())
            await database.close()

        run_aside(go)
        return found

    return ask


def sqlite(file: Path) -> Callable[[str], list[Any]]:
    def ask(sql: str) -> list[Any]:
        with closing(sqlite3.connect(file, timeout=SECONDS_MAX)) as connection:
            return [value for (value,) in connection.execute(sql)]

    return ask
