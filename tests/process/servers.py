"""Servers of the system's own PostgreSQL and PgBouncer, for the tests that copy, pool, fill or stop one."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import EMPTY, administer, run_aside, with_database
from fleet import free_port

from worker.store.database import connect
from worker.store.migrate import migrate_up

BIN = Path(os.environ.get("PG_BIN", "/usr/lib/postgresql/15/bin"))
START_SECONDS_MAX = 30.0
IS_ROOT = os.geteuid() == 0
OWNER: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if IS_ROOT else {}
"""Neither server runs as root."""

needs_postgres = pytest.mark.skipif(
    not (BIN / "initdb").exists(), reason=f"there is no PostgreSQL in {BIN}: install postgresql-15, or set PG_BIN"
)
needs_pgbouncer = pytest.mark.skipif(not shutil.which("pgbouncer"), reason="pgbouncer is not installed")


class PostgresServer:
    """One server on a unix socket in `directory`, with one database of ours."""

    def __init__(self, directory: Path, within: Sequence[str] = (), **settings: str) -> None:
        """`within`: a command that runs those of the server, as its user, somewhere else."""
        self.directory, self.data, self._within = directory, directory / "data", list(within)
        self._owner = {} if within else OWNER
        self.dsn = f"postgresql://postgres@/webhook?host={directory}"
        self._settings = {"unix_socket_directories": str(directory), "listen_addresses": "", "fsync": "off", **settings}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def initialize(self, *options: str) -> None:
        """Make the data directory."""
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N", *options)

    def make_database(self) -> None:
        """Make the database, migrated."""

        async def migrate() -> None:
            database = connect(self.dsn)
            await migrate_up(database)
            await database.close()

        administer(with_database(self.dsn, "postgres"), f"create database webhook {EMPTY}")
        run_aside(migrate)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [argument for name, value in self._settings.items() for argument in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._within, BIN / "postgres", "-D", self.data, *settings],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                **self._owner,
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while subprocess.run([BIN / "pg_isready", "-q", "-h", self.directory], check=False).returncode:
            if not self.is_running or time.monotonic() > deadline:
                pytest.fail(f"the server did not start: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT is a shutdown, SIGQUIT a crash."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(how)
            self._process.wait(START_SECONDS_MAX)

    def run(self, program: str, *arguments: object) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        done = subprocess.run(
            [str(part) for part in (*self._within, BIN / program, *arguments)],
            check=False, capture_output=True, text=True, cwd=self.directory, **self._owner,
        )  # fmt: skip
        assert 0 == done.returncode, done.stderr


@contextmanager
def owned_directory() -> Iterator[Path]:
    """A directory of the servers' user, deleted at the end."""
    directory = Path(tempfile.mkdtemp(prefix="webhook-test-"))
    if IS_ROOT:
        shutil.chown(directory, "postgres", "postgres")
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def postgres_server(**settings: str) -> Iterator[PostgresServer]:
    """Run a new server while the context lasts."""
    with owned_directory() as directory:
        server = PostgresServer(directory, **settings)
        server.initialize()
        try:
            server.start()
            server.make_database()
            yield server
        finally:
            server.stop(signal.SIGQUIT)


@contextmanager
def pgbouncer(server: PostgresServer, settings: Mapping[str, object]) -> Iterator[str]:
    """Run PgBouncer in transaction mode before a server, and yield its DSN."""
    with owned_directory() as directory:
        port = free_port()
        every = {
            "listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": "", "auth_type": "any",
            "pool_mode": "transaction", "logfile": directory / "log", **settings,
        }  # fmt: skip
        lines = ["[databases]", f"* = host={server.directory} user=postgres", "[pgbouncer]"]
        file = directory / "pgbouncer.ini"
        file.write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in every.items())]))
        process = subprocess.Popen(["pgbouncer", "-q", file], **OWNER)
        try:
            deadline = time.monotonic() + START_SECONDS_MAX
            while True:
                with suppress(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"PgBouncer did not start: {(directory / 'log').read_text()}")
                time.sleep(0.02)
            yield f"postgresql://postgres@127.0.0.1:{port}/webhook"
        finally:
            process.terminate()
            process.wait(START_SECONDS_MAX)
