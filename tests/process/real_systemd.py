"""A real systemd, booted for a test in namespaces of its own; see real-systemd.sh."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from fleet import ROOT

START_SECONDS_MAX = 60.0
SCRIPT = Path(__file__).with_name("real-systemd.sh")
SHARE, SOURCE = "/srv/share", "/srv/source"


def why_not() -> str:
    """Say why no systemd can be booted here; empty if it can."""
    if os.geteuid() != 0:
        return "a real systemd needs root"
    missing = [name for name in ("systemctl", "systemd-analyze", "unshare", "nsenter", "setpriv") if not shutil.which(name)]
    if missing or not Path("/lib/systemd/systemd").exists():
        return f"a real systemd needs {', '.join(missing) or '/lib/systemd/systemd'}: install systemd and util-linux"
    if subprocess.run(["/usr/bin/python3", "-c", "import ensurepip"], check=False, capture_output=True).returncode:
        return "the installer needs /usr/bin/python3 with venv: install python3-venv"
    groups = subprocess.run(["findmnt", "-nr", "-t", "cgroup2", "-o", "TARGET"], check=False, capture_output=True, text=True)
    if not groups.stdout or not os.access(groups.stdout.split("\n")[0], os.W_OK):
        return "a real systemd needs a control group of its own: cgroup2 is not mounted writable"
    spaces = subprocess.run(["unshare", "--mount", "--uts", "--ipc", "--cgroup", "--pid", "--fork", "true"], check=False)
    return "namespaces cannot be made here" if spaces.returncode else ""


class Guest:
    """A running systemd. Paths are the guest's."""

    def __init__(self, pid: str) -> None:
        self._enter = ["nsenter", "-t", pid, "-m", "-u", "-i", "-p", "-C", "--"]

    def run(self, *command: str, check: bool = True, said: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        done = subprocess.run([*self._enter, *command], check=False, capture_output=True, text=True, input=said, cwd="/")
        assert not check or 0 == done.returncode, f"{' '.join(command)}: {done.stdout}{done.stderr}{self.journal()[-4000:]}"
        return done

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$0")" && cat > "$0"', path, said=text)

    async def systemctl(self, *arguments: str) -> None:
        """Tell it something, while the test's own loop goes on."""
        await anyio.to_thread.run_sync(self.run, "systemctl", *arguments)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def journal(self, unit: str = "*") -> str:
        """Return what a unit has said, and what was said of it."""
        command = [*self._enter, "journalctl", "--no-pager", "-o", "short-precise", "-u", unit]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout


@contextmanager
def booted(share: Path) -> Iterator[Guest]:
    """Boot one, with a directory of the host's as `SHARE` in it and this checkout as `SOURCE`, and shut it down at the end."""
    script = subprocess.Popen(["bash", SCRIPT, share, ROOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert script.stdin
    assert script.stdout
    with script.stdin, script.stdout:
        try:
            word, _, pid = script.stdout.readline().strip().partition(" ")
            assert "ready" == word, "systemd did not boot"
            yield Guest(pid)
        finally:
            script.stdin.close()
            script.wait(START_SECONDS_MAX)
