"""How long this machine stood still: where others share it, a worker that is on time may be seen late."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

WAKE_SECONDS = 0.005


@dataclass
class Stalls:
    """`worst_seconds`: by how much somebody who wanted to wake was late at most, on any processor."""

    worst_seconds: float = 0.0


@contextmanager
def watched_for_stalls() -> Iterator[Stalls]:
    """Have a thread on each processor wake all the time, until the end."""
    stalls, ended = Stalls(), threading.Event()

    def wake(processor: int) -> None:
        os.sched_setaffinity(0, {processor})  # of this thread alone
        while True:
            before = time.monotonic()
            if ended.wait(WAKE_SECONDS):
                return
            stalls.worst_seconds = max(stalls.worst_seconds, time.monotonic() - before - WAKE_SECONDS)

    threads = [threading.Thread(target=wake, args=(processor,)) for processor in os.sched_getaffinity(0)]
    for thread in threads:
        thread.start()
    try:
        yield stalls
    finally:
        ended.set()
        for thread in threads:
            thread.join()
