"""The real `webhook-worker` for shell scripts, without the half second that an interpreter takes to import it.

A process that has imported everything forks for each command, which then has its caller's arguments, environment, directory,
input and outputs.

    with Commands(directory) as commands:
        subprocess.run(["bash", "-c", "webhook-worker version"], env={"PATH": str(commands.bin), **commands.environment})
        commands.ran()  # [(["version"], 0)]
"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Self

import anyio
from fleet import ROOT

REQUEST_BYTES_MAX = 1_000_000
SOCKET = "COMMAND_SERVER"

CLIENT = f"""#!{sys.executable} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.environ["{SOCKET}"])
    request = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(server, [request], [0, 1, 2])
    sys.exit(int(server.recv(3) or 99))
"""

ENDLESS = (["attempts", "tail"], ["demo"], ["dev"], ["listen"], ["top"])
"""Commands that go on until somebody stops them, or for long: only their options are looked at, as are those of `run`."""

ASKING = (*(["deliveries", verb] for verb in ("retry", "cancel", "hold", "release")), ["events", "purge"])
"""Commands that ask before they begin: here they are told yes, and not to wait for workers."""


class Commands:
    """The server, for as long as the context lasts. `bin` has the command, and a few tools."""

    def __init__(self, directory: Path) -> None:
        self.bin, self._log = directory / "bin", directory / "commands.jsonl"
        self._socket = directory / "socket"
        self.environment = {SOCKET: str(self._socket)}

    def __enter__(self) -> Self:
        self.bin.mkdir()
        (self.bin / "webhook-worker").write_text(CLIENT)
        (self.bin / "webhook-worker").chmod(0o755)
        for tool in ("cat", "cut"):
            (self.bin / tool).symlink_to(f"/usr/bin/{tool}")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._socket, self._log], cwd=ROOT, stdout=subprocess.PIPE, env=environment
        )
        assert self._process.stdout
        assert b"ready\n" == self._process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def ran(self) -> list[tuple[list[str], int]]:
        """Return what was run since the last time, with exit codes."""
        lines = self._log.read_text().splitlines()
        self._log.write_text("")
        return [(arguments, code) for arguments, code in map(json.loads, lines)]


def serve(path: str, log: str) -> None:
    """Fork for each request, for ever."""
    _warm_up()
    socket.getaddrinfo = _resolve
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(socket.AF_UNIX) as listener, Path(log).open("a") as record:
        listener.bind(path)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            request, files, *_ = socket.recv_fds(connection, REQUEST_BYTES_MAX, 3)
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                arguments, code = _run(request, files)
                os.write(record.fileno(), f"{json.dumps([arguments, code])}\n".encode())
                connection.sendall(str(code).encode())
                os._exit(0)
            for file in (connection.detach(), *files):
                os.close(file)


def _warm_up() -> None:
    """Import all that commands import late."""
    from worker.cli.app import main
    from worker.store.database import connect

    with redirect_stdout(io.StringIO()):
        main(["version"])
    connect("postgresql://")
    anyio.run(anyio.sleep, 0)


def _run(request: bytes, files: list[int]) -> tuple[list[str], int]:
    arguments, environment, directory = json.loads(request)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    try:
        code = _command(arguments)
    except SystemExit as ended:  # of argparse
        code = ended.code if isinstance(ended.code, int) else 1
    sys.stdout.flush()
    return arguments, code


def _command(arguments: list[str]) -> int:
    from worker.cli import run
    from worker.cli.app import main

    if arguments[:1] == ["run"]:
        run._parser().parse_args(arguments[1:])
        return 0
    if "--follow" in arguments or any(arguments[: len(endless)] == endless for endless in ENDLESS):
        return main([*arguments, "--help"])
    if arguments[:2] in ASKING:
        told = {"--yes"} | ({"--detach"} if arguments[0] == "deliveries" else set())
        arguments = [*arguments, *sorted(told - set(arguments))]
    return main(arguments)


_real_resolve = socket.getaddrinfo


def _resolve(host: Any, *rest: Any, **named: Any) -> Any:
    """Give the names of examples an address, and those under .test one that is refused, without asking anybody."""
    known = {"example.com": "93.184.215.14", "test": "127.0.0.1"}
    address = next((known[name] for name in known if isinstance(host, str) and host.endswith(name)), host)
    return _real_resolve(address, *rest, **named)


if __name__ == "__main__":
    serve(*sys.argv[1:])
