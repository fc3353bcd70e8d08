"""Commands that go on: how they end before anybody watches for it."""

import signal
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
import anyio
from worker.cli import live

def run(_):  # a loop that is not up yet
    os.kill(os.getpid(), int(sys.argv[1]))
    for _ in range(10**6):  # PyPy looks for signals now and then
        pass
    return "it went on"

anyio.run = run
sys.exit(live.run_until_interrupted(None))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_watch_begins(number: signal.Signals) -> None:
    """It ends the command well, as it does later."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(int(number))], stderr=subprocess.PIPE, check=False, text=True, timeout=60
    )
    assert (0, "") == (ended.returncode, ended.stderr)
