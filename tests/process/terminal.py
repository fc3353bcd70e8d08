"""A real terminal, which tmux is: what a command shows there can be read, and recorded as text for the documentation."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from fleet import ROOT

needs_tmux = pytest.mark.skipif(not shutil.which("tmux"), reason="there is no terminal to test in: install tmux")

PAGE = ROOT / "docs/cli.md"
RECORD = "RECORD_SCREENS"
"""With this variable in the environment, tests write what they saw into the documentation."""


class Terminal:
    """One window. `run` starts a command in it; `screen` is what is there now."""

    def __init__(self, socket: Path, columns: int, rows: int) -> None:
        self._socket, self._size = socket, ("-x", str(columns), "-y", str(rows))

    def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start `webhook-worker` in a shell, as if it had been typed; the shell stays, and says how it ended."""
        given = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
        typed = f"echo {shlex.quote('$ webhook-worker ' + shlex.join(arguments))}"
        command = " ".join(["env", *given, shlex.quote(sys.executable), "-m", "worker", shlex.join(arguments)])
        script = f"cd {shlex.quote(str(ROOT))}; {typed}; {command}; echo ended with $?; exec sleep 1000"
        self._tmux("-f", "/dev/null", "new-session", "-d", *self._size, script)

    def press(self, *keys: str) -> None:
        """Press keys, as tmux names them: q, C-c, Enter."""
        self._tmux("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the window, as a user does."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self) -> str:
        """Return the lines that are there now, without the blanks at their ends."""
        lines = self._tmux("capture-pane", "-p").splitlines()
        return "\n".join(line.rstrip() for line in lines).rstrip()

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), *arguments], capture_output=True, text=True, check=False, env=self._environment()
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    @staticmethod
    def _environment() -> dict[str, str]:
        return {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}

    def close(self) -> None:
        """End it, and what runs in it."""
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], capture_output=True, check=False)


@contextmanager
def terminal(columns: int = 110, rows: int = 30) -> Iterator[Terminal]:
    """Open a terminal while the context lasts."""
    with tempfile.TemporaryDirectory(prefix="webhook-tmux-") as directory:
        opened = Terminal(Path(directory) / "socket", columns, rows)
        try:
            yield opened
        finally:
            opened.close()


def record(name: str, screen: str) -> None:
    """Write a screen into the documentation, if that was asked for: into the block after its mark."""
    block = re.compile(rf"(<!-- screen: {name} -->\n```text\n).*?(^```$)", re.DOTALL | re.MULTILINE)
    before = PAGE.read_text()
    assert block.search(before), f"{PAGE.name} has no place for the screen {name}"
    if os.environ.get(RECORD):
        PAGE.write_text(block.sub(lambda match: f"{match[1]}{screen}\n{match[2]}", before))
