"""How late the event loop is: what every lane waits for when something computes for too long."""

import time

import anyio

from worker.pipeline.tally import Histogram

EVERY_SECONDS = 0.25
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


async def watch_loop(lag: Histogram) -> None:
    """Sleep a little for ever, and count by how much each sleep was too long."""
    while True:
        due = time.monotonic() + EVERY_SECONDS
        await anyio.sleep(EVERY_SECONDS)
        lag.add(max(0.0, time.monotonic() - due))
