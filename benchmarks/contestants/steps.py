"""What each step of a delivery costs this interpreter, with nothing else going on: CPU in µs, the best of several rounds.

    python -m benchmarks.contestants.steps PORT

Prints one JSON object. `PORT` is a receiver's. A store that costs nothing stands for Postgres, and a sender that costs nothing
for the network, where they are not what is measured.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from worker.core.address import AddressRules, parse_networks
from worker.core.model import Claim, Decision, Delivery, Endpoint, Exchange, Outcome, Request
from worker.core.signing import SigningKey, sign
from worker.http.client import Client
from worker.http.dial import Dialer
from worker.http.resolver import Resolver
from worker.http.response import Response
from worker.http.sender import HttpSender
from worker.pipeline.limits import Limits
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.ports import NOBODY, Avoid, Claimed
from worker.pipeline.tally import Tally
from worker.store.postgres import PostgresStore

ROUNDS = 25 if sys.implementation.name == "pypy" else 9  # the first ones warm up
REPEATS = 5_000
LANES = 64
BODY = b"x" * 1024
KEY = SigningKey(b"k" * 32)
ENDPOINTS = [Endpoint(n, 1, "", f"http://127.0.0.1:80/{n}", (), 15.0, (5.0,), (KEY,)) for n in range(100)]
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: x\r\nDate: Thu, 26 Nov 2026 12:00:00 GMT\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
)


def best(work: Callable[[], Any]) -> float:
    """Return the microseconds of one call."""
    least = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(REPEATS):
            work()
        least = min(least, time.process_time() - started)
    return least / REPEATS * 1e6


async def best_of_async(work: Callable[[], Awaitable[int]]) -> float:
    """The same of work that says how many deliveries it did."""
    least = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        done = await work()
        least = min(least, (time.process_time() - started) / done)
    return least * 1e6


class IdleStore:
    """Hands out deliveries that cost nothing to claim or to record."""

    def __init__(self, deliveries: int) -> None:
        self._left, self._claims = deliveries, 0

    async def claim(self, rows_max: int, bytes_max: int, avoid: Avoid = NOBODY, wait_seconds: float = 0.0) -> Claimed:  # noqa: ARG002 - the port's
        """Give what is asked for."""
        await asyncio.sleep(0.002)
        self._claims += 1
        claim, rows = Claim(self._claims, 30.0, 0.0), min(rows_max, self._left)
        self._left -= rows
        numbers = range(self._left, self._left + rows)
        deliveries = [Delivery(claim, n, ENDPOINTS[n % 100], 1, 0, None, n, "application/json", BODY) for n in numbers]
        return Claimed(time.time(), claim if rows else None, deliveries, bool(rows))

    async def record(self, outcomes: Sequence[Outcome], now: float) -> int:  # noqa: ARG002 - the port's
        """Take what comes."""
        await asyncio.sleep(0.002)
        return len(outcomes)

    async def extend(self, claims: Sequence[int]) -> set[int]:
        """Keep everything."""
        return set(claims)

    async def plan_again(self, delivery: Delivery) -> float | None:  # noqa: ARG002 - the port's
        """Never."""
        return None

    async def has_due(self) -> bool:
        """Say whether some is left."""
        return self._left > 0


class IdleSender:
    """Answers 200 after a turn of the loop."""

    def lead_seconds(self, _url: str, _transport: str) -> float:
        """None."""
        return 0.0

    async def send(self, request: Request, before_write: Callable[[bool], Awaitable[None]]) -> Exchange:  # noqa: ARG002 - the port's
        """Do nothing."""
        await before_write(False)
        await asyncio.sleep(0)
        return Exchange(200, "", None, b"ok")

    async def aclose(self) -> None:
        """Nothing to close."""


class CannedDatabase:
    """Answers a claim and a record of so many rows, as Postgres would."""

    is_pooled = False

    def __init__(self, rows: int) -> None:
        endpoint = {
            "version": 1, "tenant": "", "url": "http://127.0.0.1:80/1", "headers": {}, "timeout": 15.0, "retry": [5.0],
            "keys": [["v1", "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=", None]], "transport": "default",
        }  # fmt: skip
        deliveries = [[n, n % 100, 1, 0, None, n, "application/json", BODY.decode()] for n in range(rows)]
        self._claim = json.dumps(
            {"claim": 1, "now": 1.0, "waited": 0.0, "worked": 0.0, "lease": 30.0, "more": True, "full": False,
             "weights": {"": 1.0}, "endpoints": {str(n): endpoint for n in range(100)}, "deliveries": deliveries,
             "ages": [[0.012345, 0.012345]] * rows, "traces": None}
        )  # fmt: skip
        self._rows = rows

    async def value(self, sql: str, *args: Any) -> Any:  # noqa: ARG002 - as a driver has it
        """Answer."""
        return self._claim if "webhook.claim" in sql else self._rows


async def count_outcomes() -> int:
    """What metrics cost: outcomes counted by the batch."""
    tally = Tally()
    tally.clock.observe(0.0, 1_700_000_000.0, 0.0)
    due = 1_699_999_999.9
    delivery = Delivery(
        Claim(1, 30.0, 0.0), 1, ENDPOINTS[0], 1, 0, None, 1, "application/json", BODY, due_at=due, created_at=due
    )
    outcomes = [Outcome(delivery, Decision("delivered", "ok"), 0.0, 0.01, Exchange(200, "", None, b"ok"))] * 200
    for _ in range(REPEATS // 200):
        tally.add(outcomes)
    return REPEATS


async def measure(port: int) -> dict[str, float]:
    """Return the microseconds of each step, by its name."""
    signed = sign((KEY,), "msg_abc_1", 1_700_000_000, BODY)
    fields = (
        ("content-type", "application/json"), ("user-agent", "webhook-worker/0"), ("webhook-id", "msg_abc_1"),
        ("webhook-timestamp", "1700000000"), ("webhook-signature", signed),
    )  # fmt: skip
    delivery = Delivery(Claim(1, 30.0, 0.0), 1, ENDPOINTS[0], 1, 0, None, 1, "application/json", BODY)
    sender = HttpSender(Client(Dialer(Resolver(AddressRules(allow=parse_networks("127.0.0.0/8"))))), allow_http=True)

    async def pipeline() -> int:
        await Pipeline(IdleStore(REPEATS), IdleSender(), Limits.for_lanes(LANES), "abc", once=True, tally=Tally()).run()
        return REPEATS

    async def yes(_: bool) -> None:
        return

    async def lane(number: int) -> None:
        for _ in range(REPEATS // LANES):
            exchange = await sender.send(Request(f"http://127.0.0.1:{port}/{number}", fields, BODY, 15.0), yes)
            assert exchange.status == 200

    async def exchanges() -> int:
        await asyncio.gather(*map(lane, range(LANES)))
        return REPEATS // LANES * LANES

    rows = 200
    store = PostgresStore("", "steps", connect=lambda _: CannedDatabase(rows))  # type: ignore[arg-type,return-value]  # of a database it needs no more

    async def claims() -> int:
        for _ in range(REPEATS // rows):
            await store.claim(rows, 1 << 24)
        return REPEATS

    async def records() -> int:
        outcomes = [Outcome(delivery, Decision("delivered", "ok"), 0.0, 0.01, Exchange(200, "", None, b"ok"))] * rows
        for _ in range(REPEATS // rows):
            await store.record(outcomes, 1.0)
        return REPEATS

    assert Response(65_536, 1024).feed(ANSWER)
    figures = {
        "read a claim's row": await best_of_async(claims),
        "lanes, pace, sign, classify, hand on": await best_of_async(pipeline),
        "of that: count it, for metrics": await best_of_async(count_outcomes),
        "of that: sign": best(lambda: sign((KEY,), "msg_abc_1", 1_700_000_000, BODY)),
        "send on a kept connection": await best_of_async(exchanges),
        "of that: read the response": best(lambda: Response(65_536, 1024).feed(ANSWER)),
        "write a record's row": await best_of_async(records),
    }
    await sender.aclose()
    return figures


def main() -> None:
    """Measure on the loop that a worker has here."""
    port = int(sys.argv[1])
    if sys.implementation.name == "pypy":
        figures = asyncio.run(measure(port))
    else:
        import uvloop

        figures = uvloop.run(measure(port))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
