"""The example receivers, each a real process on a real port: what a worker signs they accept, once, and nothing else.

What runs are copies, with a `handle` that fails or kills its process if an event says so: that is what readers replace.
"""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from command import running
from conftest import EMPTY, administer, with_database
from fleet import ROOT, Worker, free_port
from node import node_lacks, skip_without_node

from worker.core.message import message_headers
from worker.core.signing import make_key, shown

pytestmark = pytest.mark.sql

EXAMPLES = ROOT / "examples/receivers"
KEY, OTHER_KEY = make_key("v1"), make_key("v1")
NAMES = ("fastapi", "flask", "django", "django-postgres", "node")
ON_POSTGRES = ("fastapi", "django-postgres", "node")
EVENTS = 3
AT_ONCE = 20
DAY_SECONDS = 86_400
SECONDS_MAX = 30.0
_ANOTHER = "v1,MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
"""A signature by a key that this receiver does not have, as during a rotation."""

_IN_PYTHON = """
    import os
    import pathlib

    for word in ("fails", "kills"):  # once: the file is there the second time
        if word in payload and not pathlib.Path(payload[word]).exists():
            pathlib.Path(payload[word]).touch()
            if word == "fails":
                raise ValueError("the test wants it to fail")
            os.kill(os.getpid(), 9)
"""
_IN_NODE = """
  const fs = await import("node:fs");
  for (const word of ["fails", "kills"]) {
    if (payload[word] && !fs.existsSync(payload[word])) {
      fs.writeFileSync(payload[word], "");
      if (word === "fails") throw new Error("the test wants it to fail");
      process.kill(process.pid, "SIGKILL");
    }
  }
"""
"""The ends of `handle`."""

_SETTINGS_WITH_POSTGRES = """
import os

from psycopg.conninfo import conninfo_to_dict
from settings import *

options = conninfo_to_dict(os.environ["DATABASE"])
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": options.pop("dbname"), "OPTIONS": options}}
"""


@dataclass
class Program:
    """A process of an example, which can be started again. It listens on `port`, if it has one."""

    command: Sequence[str]
    directory: Path
    log: Path
    environment: Mapping[str, str]
    port: int | None = None
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, cwd=self.directory, stdout=output, stderr=output,
                env={**os.environ, "WEBHOOK_KEY": shown(KEY), "PYTHONDONTWRITEBYTECODE": "1", **self.environment},
            )  # fmt: skip

    def status(self) -> int | None:
        """Return its exit status, once it has one."""
        assert self.process
        return self.process.poll()

    def answers(self) -> bool:
        assert self.status() is None, self.log.read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port or 0)):
            return True
        return False

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it as long as the context lasts."""
        self.start()
        try:
            if self.port:
                wait_until(self.answers)
            yield
        finally:
            self.kill()


@dataclass
class Receiver:
    """A running example. `worker` is the process that works, `other` one more of its kind, which is not started.

    `run` runs SQL in its database, `at` is SQL for a moment so many seconds from now, `inbox` and `balances` are its tables.
    `dsn` is its database, if that is a Postgres.
    """

    port: int
    worker: Program
    other: Program
    run: Callable[[str], list[Any]]
    at: Callable[[int], str]
    inbox: str = "inbox"
    balances: str = "balance"
    dsn: str = ""

    def balance(self, account: str) -> int:
        """Return an account's balance once everything that was received for it is done."""
        wait_until(lambda: not self.events(f"done_at is null and payload like '%\"{account}\"%'"))
        return sum(self.run(f"select cents from {self.balances} where account = '{account}'"))

    def events(self, condition: str) -> int:
        return len(self.run(f"select 1 from {self.inbox} where {condition}"))

    def accounts(self, account: str) -> int:
        return len(self.run(f"select 1 from {self.balances} where account = '{account}'"))

    def post(
        self, webhook_id: str, body: bytes, changed: Mapping[str, str | None] | None = None, port: int | None = None
    ) -> int:
        """Send what a worker would, but for the headers that are `changed`, or None; return the status."""
        headers = {**signed(webhook_id, body), **(changed or {})}
        return httpx.post(
            f"http://127.0.0.1:{port or self.port}/hook",
            content=body,
            headers={name: value for name, value in headers.items() if value is not None},
            timeout=SECONDS_MAX,
            trust_env=False,
        ).status_code


def signed(webhook_id: str, body: bytes, key: Any = KEY, age_seconds: int = 0) -> dict[str, str]:
    headers = message_headers("application/json", [key], webhook_id, int(time.time()) - age_seconds, body)
    return {name: value for name, value in headers if name.startswith("webhook-")}


def pay(account: str, **more: object) -> bytes:
    return json.dumps({"account": account, "cents": 7, **more}).encode()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def receivers(server_dsn: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Receiver]]:
    """Start all that can be started here, and let one worker deliver the same events to each."""
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(start(tmp_path_factory.mktemp(name), server_dsn))
            for name, start in STARTS.items()
            if why_not(name) is None
        }
        deliver(stack.enter_context(new_database(server_dsn, f"template {template}")), started)
        yield started


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Name an example that can be started here."""
    chosen = str(request.param)
    if reason := why_not(chosen):
        skip_without_node(reason) if chosen == "node" else pytest.skip(reason)
    return chosen


@pytest.fixture
def receiver(name: str, receivers: Mapping[str, Receiver]) -> Receiver:
    return receivers[name]


@pytest.fixture
def own_receiver(name: str, server_dsn: str, tmp_path: Path) -> Iterator[Receiver]:
    """Start one for a test that kills it, or lets it have events of its own (all test databases number theirs alike)."""
    with STARTS[name](tmp_path, server_dsn) as started:
        yield started


def test_what_a_worker_delivers_has_its_effect(receiver: Receiver) -> None:
    assert EVENTS * 5 == receiver.balance("delivered")


def test_the_same_id_has_its_effect_once(receiver: Receiver) -> None:
    """Also when the second time is a retry, with a timestamp and a signature of its own; another id is another event."""
    body = pay("once")
    later = signed("msg_once_1", body, age_seconds=-1)
    assert [204, 204, 204] == [
        receiver.post("msg_once_1", body),
        receiver.post("msg_once_1", body),
        receiver.post("msg_once_1", body, later),
    ]
    assert 7 == receiver.balance("once")
    assert 204 == receiver.post("msg_once_2", body)
    assert 14 == receiver.balance("once")


def test_many_at_once_and_two_who_work(receiver: Receiver) -> None:
    """One id many times, and as many others: each has its effect once, whoever takes it."""
    ids = ["msg_many" for _ in range(AT_ONCE)] + [f"msg_many_{n}" for n in range(AT_ONCE)]
    with receiver.other.running(), ThreadPoolExecutor(AT_ONCE) as threads:
        ports = cycle([receiver.port, receiver.other.port])
        answers = threads.map(lambda webhook_id, port: receiver.post(webhook_id, pay("many"), port=port), ids, ports)
        assert {204} == set(answers)
        assert (1 + AT_ONCE) * 7 == receiver.balance("many")


def test_what_is_not_signed_right_is_refused(receiver: Receiver) -> None:
    """Another's key, another body, an old, a future or a malformed timestamp, a header too few: 400, and no effect."""
    body = pay("never")
    changes: list[Mapping[str, str | None]] = [
        {"webhook-signature": signed("msg_never_1", body, OTHER_KEY)["webhook-signature"]},
        {"webhook-signature": signed("msg_never_1", body + b" ")["webhook-signature"]},
        signed("msg_never_1", body, age_seconds=600),
        signed("msg_never_1", body, age_seconds=-600),
        {"webhook-timestamp": "yesterday"},
        {"webhook-signature": "nonsense"},
        {"webhook-signature": ""},
        *({name: None} for name in signed("msg_never_1", body)),
    ]
    assert [(change, 400) for change in changes] == [(change, receiver.post("msg_never_1", body, change)) for change in changes]
    assert 0 == receiver.events("payload like '%never%'")


def test_one_signature_of_several_is_enough(receiver: Receiver) -> None:
    """As during a rotation of keys."""
    body = pay("rotated")
    both = f"{_ANOTHER} {signed('msg_rotated_1', body)['webhook-signature']}"
    assert 204 == receiver.post("msg_rotated_1", body, {"webhook-signature": both})
    assert 7 == receiver.balance("rotated")


def test_what_is_signed_and_not_json_is_stored(receiver: Receiver) -> None:
    """The signature is right: whatever becomes of it, its sender is done."""
    assert 204 == receiver.post("msg_text_1", "sieben €".encode(), {"content-type": "text/plain"})
    assert 1 == receiver.events("webhook_id = 'msg_text_1' and payload = 'sieben €'")


def test_a_body_has_a_limit(receiver: Receiver) -> None:
    """More than a worker would ever send is answered with 413; what it may send is not."""
    assert 413 == receiver.post("msg_long_1", b"0" * 1_000_001)
    assert 204 == receiver.post("msg_long_2", pay("long", text="0" * (256 * 1024 - 100)))
    assert 7 == receiver.balance("long")


def test_what_fails_has_no_effect_and_is_tried_again(receiver: Receiver, tmp_path: Path) -> None:
    """Nothing of it is left, not even what `handle` did before it failed."""
    assert 204 == receiver.post("msg_failed_1", pay("failed", fails=str(tmp_path / "failed")))
    wait_until(lambda: receiver.events(f"webhook_id = 'msg_failed_1' and retry_at > {receiver.at(30)}") == 1)
    assert 0 == receiver.accounts("failed")
    receiver.run(f"update {receiver.inbox} set retry_at = {receiver.at(-1)} where webhook_id = 'msg_failed_1'")
    assert 7 == receiver.balance("failed")


def test_a_crash_in_the_middle(own_receiver: Receiver, tmp_path: Path) -> None:
    """Killed between the effect and the commit, and started again: once."""
    with suppress(httpx.TransportError):  # it may be killed before it has answered
        own_receiver.post("msg_killed_1", pay("killed", kills=str(tmp_path / "killed")))
    wait_until(lambda: own_receiver.worker.status() == -signal.SIGKILL)
    assert (1, 0) == (own_receiver.events("done_at is null"), own_receiver.accounts("killed"))
    own_receiver.worker.start()
    assert 7 == own_receiver.balance("killed")


def test_it_answers_while_nothing_is_worked_off(own_receiver: Receiver) -> None:
    """With Postgres, `handle` waits for a lock; with SQLite, nobody works."""
    if own_receiver.dsn:
        with psycopg.connect(own_receiver.dsn) as connection:
            connection.execute(f"lock table {own_receiver.balances}")
            assert 204 == own_receiver.post("msg_waits_1", pay("waits"))
            wait_until(lambda: somebody_waits(own_receiver.run))
            assert 204 == own_receiver.post("msg_waits_2", pay("waits"))
            assert 2 == own_receiver.events("done_at is null")
    else:
        own_receiver.worker.kill()
        assert [204, 204] == [own_receiver.post(f"msg_waits_{n}", pay("waits")) for n in (1, 2)]
        assert 2 == own_receiver.events("done_at is null")
        own_receiver.worker.start()
    assert 14 == own_receiver.balance("waits")


def test_an_error_of_the_database_does_not_end_the_work(receiver: Receiver) -> None:
    """While it lasts the inbox waits, and the log says so; then what was stored is worked off."""
    said = receiver.worker.log.read_text().count("the inbox waits")
    receiver.run(f"alter table {receiver.inbox} rename column retry_at to away")
    wait_until(lambda: receiver.worker.log.read_text().count("the inbox waits") > said)
    receiver.run(f"alter table {receiver.inbox} rename column away to retry_at")
    assert 204 == receiver.post("msg_error_1", pay("error"))
    assert 7 == receiver.balance("error")


@pytest.mark.parametrize("name", ON_POSTGRES, indirect=True)
def test_lost_connections_do_not_end_it(receiver: Receiver) -> None:
    """Neither that of `handle`, nor those that nobody uses."""
    with psycopg.connect(receiver.dsn) as connection:
        connection.execute(f"lock table {receiver.balances}")
        assert 204 == receiver.post("msg_lost_1", pay("lost"))
        wait_until(lambda: somebody_waits(receiver.run))
        ended = receiver.run(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            f" and pid not in (pg_backend_pid(), {connection.info.backend_pid})"
        )
        assert ended
        assert all(ended)
    assert 7 == receiver.balance("lost")
    wait_until(lambda: receiver.post("msg_lost_2", pay("lost")) == 204)
    assert 14 == receiver.balance("lost")
    assert receiver.worker.status() is None


@pytest.mark.parametrize("name", ["fastapi", "node"], indirect=True)
def test_two_that_start_at_once(name: str, server_dsn: str, tmp_path: Path) -> None:
    """One is in the middle of making its tables when the other begins."""
    source = {"fastapi": "fastapi_receiver.py", "node": "node/receiver.js"}[name]
    tables = re.search(r"[^\"`]*create table if not exists inbox[^\"`]*", (EXAMPLES / source).read_text())
    assert tables
    with new_database(server_dsn, EMPTY) as dsn, psycopg.connect(dsn) as first:
        first.execute(tables[0].encode())
        second = PROGRAMS[name](copied(tmp_path), dsn, "second")
        second.start()
        try:
            wait_until(lambda: somebody_waits(partial(postgres, dsn)))
            first.commit()
            wait_until(second.answers)
        finally:
            second.kill()


def test_what_is_done_is_forgotten_after_a_month(receiver: Receiver) -> None:
    for days in (29, 31):
        assert 204 == receiver.post(f"msg_month_{days}", pay("month"))
    assert 14 == receiver.balance("month")
    for days in (29, 31):
        moment = receiver.at(-days * DAY_SECONDS)
        receiver.run(f"update {receiver.inbox} set done_at = {moment} where webhook_id = 'msg_month_{days}'")
    wait_until(lambda: not receiver.events("webhook_id = 'msg_month_31'"))
    assert 1 == receiver.events("webhook_id = 'msg_month_29'")


def test_what_is_due_has_an_index(receiver: Receiver) -> None:
    """Of what is not done alone, so that it stays small."""
    definitions = receiver.run(
        f"select indexdef from pg_indexes where tablename = '{receiver.inbox}'" if receiver.dsn
        else f"select sql from sqlite_master where type = 'index' and sql is not null and tbl_name = '{receiver.inbox}'"
    )  # fmt: skip
    partial_ones = [text.lower().partition(" where ") for text in definitions if " where " in text.lower()]
    assert [(True, True)] == [("retry_at" in index, "is null" in condition) for index, _, condition in partial_ones]


@pytest.mark.parametrize("name", ["django"], indirect=True)
def test_the_migration_makes_what_the_models_say(receiver: Receiver) -> None:
    command = [sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"]
    done = subprocess.run(
        command, cwd=receiver.worker.directory, env={**os.environ, **receiver.worker.environment, "WEBHOOK_KEY": shown(KEY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["flask"], indirect=True)
def test_dev_delivers_to_it(own_receiver: Receiver, dsn: str, tmp_path: Path) -> None:
    """As the page says: a line in a file, with the receiver's own key."""
    url = f"http://localhost:{own_receiver.port}/hook"
    file = tmp_path / "endpoints.jsonl"
    file.write_text(json.dumps({"url": url, "event_types": ["order.*"], "keys": [shown(KEY)]}) + "\n")
    with running(["dev", "--endpoints", file, "--port", free_port()], DATABASE_URL=dsn) as dev:
        wait_until(lambda: dev.heard(url) and dev.heard("printing what comes"))
        enqueue(dsn, "order.paid", "dev")
        wait_until(lambda: own_receiver.accounts("dev") == 1)
    assert 7 == own_receiver.balance("dev")


@pytest.mark.parametrize("name", ["flask"], indirect=True)
def test_listen_passes_events_to_it(own_receiver: Receiver, dsn: str) -> None:
    """Those that were asked for, signed with the receiver's own key."""
    url = f"http://localhost:{own_receiver.port}/hook"
    command = ["listen", "--forward-to", url, "--event-type", "order.*", "--key", shown(KEY)]
    with running(command, DATABASE_URL=dsn) as listener:
        wait_until(lambda: listener.heard("passing events"))
        enqueue(dsn, "user.paid", "listen")
        enqueue(dsn, "order.paid", "listen")
        wait_until(lambda: own_receiver.accounts("listen") == 1)
    assert 7 == own_receiver.balance("listen")


def test_the_page_shows_these_files() -> None:
    """Each file that docs/receivers.md includes exists, and is linked, for those who read it where nothing is included."""
    page = (ROOT / "docs/receivers.md").read_text()
    included = re.findall(r'^--8<-- "(.+)"$', page, re.MULTILINE)
    assert 7 == len(included)
    assert [] == [path for path in included if not (ROOT / path).is_file() or f"](../{path})" not in page]


def why_not(name: str) -> str | None:
    """Say what is missing for an example, if anything is."""
    if name == "node":
        return node_lacks(EXAMPLES / "node")
    package = name.partition("-")[0]
    return None if find_spec(package) else f"{package} is not installed: make install"


def enqueue(dsn: str, event_type: str, account: str) -> None:
    postgres(dsn, f"select webhook.enqueue('{event_type}', '{pay(account).decode()}'::text)")


def deliver(dsn: str, receivers: Mapping[str, Receiver]) -> None:
    """Let a worker deliver some events to all of them."""
    for receiver in receivers.values():
        url = f"http://127.0.0.1:{receiver.port}/hook"
        postgres(dsn, f"select id from webhook.create_endpoint('{url}', '', '{{}}', array['{shown(KEY)}'])")
    for _ in range(EVENTS):
        postgres(dsn, """select webhook.enqueue('paid', '{"account": "delivered", "cents": 5}'::text)""")
    with Worker(dsn, "--once") as worker:
        _, said = worker.process.communicate(timeout=60)
    assert f"{EVENTS * len(receivers)} delivered" in said


def copied(directory: Path) -> Path:
    """Copy the examples, and let `handle` do what the tests want besides."""
    there = directory / "receivers"
    shutil.copytree(EXAMPLES, there, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    (there / "node/node_modules").symlink_to(EXAMPLES / "node/node_modules")
    for name in ("fastapi_receiver.py", "flask_receiver.py", "django_receiver/inbox/management/commands/work.py"):
        file = there / name
        head, handle, body = file.read_text().rpartition("def handle(")
        assert "\n\n" not in body, "`handle` is the last thing in the file"
        file.write_text(head + handle + body + _IN_PYTHON)
    file = there / "node/receiver.js"
    end = re.compile(r"\nasync function handle\(.*?\n(?=\}\n)", re.DOTALL)
    text, replaced = end.subn(lambda found: found[0] + _IN_NODE, file.read_text())
    assert 1 == replaced
    file.write_text(text)
    (there / "django_receiver/settings_with_postgres.py").write_text(_SETTINGS_WITH_POSTGRES)
    return there


def fastapi(there: Path, dsn: str, name: str) -> Program:
    port = str(free_port())
    command = [sys.executable, "-m", "uvicorn", "fastapi_receiver:app", "--port", port]
    return Program(command, there, there / f"{name}.log", {"DATABASE_URL": dsn}, int(port))


def node(there: Path, dsn: str, name: str) -> Program:
    port = str(free_port())
    return Program(
        ["node", "receiver.js"], there / "node", there / f"{name}.log", {"DATABASE_URL": dsn, "PORT": port}, int(port)
    )


PROGRAMS = {"fastapi": fastapi, "node": node}
"""Those in which one process answers and works."""


@contextmanager
def one_process(name: str, directory: Path, server_dsn: str) -> Iterator[Receiver]:
    there = copied(directory)
    with new_database(server_dsn, EMPTY) as dsn:
        first, other = (PROGRAMS[name](there, dsn, log) for log in ("first", "other"))
        with first.running():
            yield Receiver(first.port or 0, first, other, partial(postgres, dsn), in_postgres, dsn=dsn)


@contextmanager
def flask(directory: Path, _server_dsn: str) -> Iterator[Receiver]:
    there, file = copied(directory), directory / "flask.db"
    command = ["-m", "flask", "--app", "flask_receiver"]
    with two_processes(there, {"DATABASE": str(file)}, command, ["run", "--port"]) as (port, worker, other):
        yield Receiver(port, worker, other, partial(sqlite, file), lambda seconds: f"strftime('%s', 'now') + {seconds}")


@contextmanager
def django(directory: Path, _server_dsn: str) -> Iterator[Receiver]:
    file = directory / "django.db"
    with django_processes(directory, str(file), "settings") as (port, worker, other):
        yield Receiver(
            port, worker, other, partial(sqlite, file), lambda seconds: f"datetime('now', '{seconds} seconds')",
            "inbox_event", "inbox_balance",
        )  # fmt: skip


@contextmanager
def django_with_postgres(directory: Path, server_dsn: str) -> Iterator[Receiver]:
    with (
        new_database(server_dsn, EMPTY) as dsn,
        django_processes(directory, dsn, "settings_with_postgres") as (port, worker, other),
    ):
        yield Receiver(port, worker, other, partial(postgres, dsn), in_postgres, "inbox_event", "inbox_balance", dsn)


@contextmanager
def django_processes(directory: Path, database: str, settings: str) -> Iterator[tuple[int, Program, Program]]:
    there = copied(directory) / "django_receiver"
    environment = {"DATABASE": database, "DJANGO_SETTINGS_MODULE": settings}
    migrate = Program([sys.executable, "manage.py", "migrate"], there, there / "migrate.log", environment)
    with migrate.running():
        wait_until(lambda: migrate.status() is not None)
        assert 0 == migrate.status(), migrate.log.read_text()
    with two_processes(there, environment, ["manage.py"], ["runserver", "--noreload"]) as started:
        yield started


@contextmanager
def two_processes(
    there: Path, environment: Mapping[str, str], command: Sequence[str], serve: Sequence[str]
) -> Iterator[tuple[int, Program, Program]]:
    """Run one that answers and one that works; yield the port, the one that works, and another of its kind."""
    python, port = [sys.executable, *command], str(free_port())
    server = Program([*python, *serve, port], there, there / "server.log", environment, int(port))
    worker, other = (Program([*python, "work"], there, there / f"{name}.log", environment) for name in ("worker", "other"))
    with server.running(), worker.running():
        yield int(port), worker, other


STARTS: dict[str, Callable[[Path, str], AbstractContextManager[Receiver]]] = {
    "fastapi": partial(one_process, "fastapi"),
    "flask": flask,
    "django": django,
    "django-postgres": django_with_postgres,
    "node": partial(one_process, "node"),
}


@contextmanager
def new_database(server_dsn: str, options: str) -> Iterator[str]:
    name = f"webhook_test_{uuid4().hex[:12]}"
    administer(server_dsn, f"create database {name} {options}")
    yield with_database(server_dsn, name)
    administer(server_dsn, f"drop database {name} with (force)")


def postgres(dsn: str, sql: str) -> list[Any]:
    """Run a statement; return the first column of its rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        return [row[0] for row in cursor] if cursor.description else []


def sqlite(file: Path, sql: str) -> list[Any]:
    """The same."""
    with closing(sqlite3.connect(file, timeout=SECONDS_MAX)) as connection, connection:
        return [value for (value,) in connection.execute(sql)]


def in_postgres(seconds: int) -> str:
    return f"now() + interval '{seconds} seconds'"


def somebody_waits(run: Callable[[str], list[Any]]) -> bool:
    """Whether a statement waits for a lock in this database."""
    return run("select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'") != []
