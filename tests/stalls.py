"""How long this machine stood still: where others share it, a worker that is on time may be seen late."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

WATCHER = """
import os, signal, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
signal.signal(signal.SIGTERM, lambda *_: (print(worst, flush=True), os._exit(0)))
worst = 0.0
print(worst, flush=True)
while True:
    before = time.monotonic()
    time.sleep(0.005)
    worst = max(worst, time.monotonic() - before - 0.005)
"""


@dataclass
class Stalls:
    """By how much somebody who wanted to wake was late at most, on any processor: known when `measured` has been called."""

    watchers: list[subprocess.Popen[str]]

    def measured(self) -> float:
        """End the watch; return the seconds."""
        for watcher in self.watchers:
            watcher.terminate()
        return max(float(watcher.communicate()[0].split()[-1]) for watcher in self.watchers)


@contextmanager
def watched_for_stalls() -> Iterator[Stalls]:
    """Have a process on each processor wake all the time. They are not the test's: what holds that up is no excuse."""
    stalls = Stalls([])
    try:
        for processor in os.sched_getaffinity(0):
            command = [sys.executable, "-c", WATCHER, str(processor)]
            stalls.watchers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        for watcher in stalls.watchers:
            assert watcher.stdout is not None
            watcher.stdout.readline()  # it has begun
        yield stalls
    finally:
        for watcher in stalls.watchers:
            watcher.kill()
            watcher.wait()
            if watcher.stdout is not None:
                watcher.stdout.close()
