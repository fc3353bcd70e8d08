"""A command that goes on until somebody ends it: its lines, as they come."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread

from fleet import ROOT


class Running:
    """What it has printed, and what it has said on stderr, up to now."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self.said: list[str] = []

    def read_on(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line)

    def listen(self) -> None:
        for line in self.process.stderr or ():
            self.said.append(line)

    def heard(self, text: str) -> bool:
        """Whether a line on stderr has this in it."""
        return any(text in line for line in self.said)


@contextmanager
def running(arguments: Sequence[object], **environment: str) -> Iterator[Running]:
    """Run `webhook-worker`; at the end, Ctrl-C ends it with exit code 0, unless it has ended before."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WEBHOOK_WORKER_", "DATABASE_URL"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "worker", *map(str, arguments)],
        cwd=ROOT, env={**kept, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    command = Running(process)
    readers = [Thread(target=command.read_on), Thread(target=command.listen)]
    for reader in readers:
        reader.start()
    try:
        yield command
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            assert 0 == process.wait(30), command.said
    finally:
        process.kill()
        process.wait()
        for reader in readers:
            reader.join()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
