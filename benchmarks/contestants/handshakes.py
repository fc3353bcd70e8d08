"""What a new TLS connection costs this project's client, with a session to resume and without: CPU of a whole exchange each.

    python -m benchmarks.contestants.handshakes TLS_PORT COUNT

Prints microseconds: `full 812 resumed 401`. The two take turns.
"""

import asyncio
import ssl
import sys
import time

from benchmarks.stage import CERTIFICATES
from worker.core.address import AddressRules, parse_networks
from worker.http.client import Client
from worker.http.dial import Dialer, default_tls
from worker.http.pool import Origin, Pool
from worker.http.resolver import Resolver

ROUND = 50
REQUEST = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"


async def main(port: int, count: int) -> None:
    """Connect so many times in each way."""

    def trust() -> ssl.SSLContext:
        return default_tls([str(CERTIFICATES / "ca.pem")])

    client = Client(Dialer(Resolver(AddressRules(allow=parse_networks("127.0.0.0/8"))), trust), Pool(idle_max=0))
    loop = asyncio.get_running_loop()
    origin = Origin("https", "127.0.0.1", port)

    async def yes(_: bool) -> None:
        return

    async def connect(kind: str) -> None:
        if kind == "full":
            origin.session = None
        await client.exchange(origin, REQUEST, loop.time() + 10, yes)

    async def take_turns(rounds: int) -> dict[str, float]:
        seconds = {"full": 0.0, "resumed": 0.0}
        for _ in range(rounds):
            for kind, before in seconds.items():
                started = time.process_time()
                for _ in range(ROUND):
                    await connect(kind)
                seconds[kind] = before + time.process_time() - started
        return seconds

    rounds = max(1, count // ROUND)
    await take_turns(rounds)  # warms up
    seconds = await take_turns(rounds)
    await client.aclose()
    print(*(f"{kind} {taken / rounds / ROUND * 1e6:.0f}" for kind, taken in seconds.items()))


if __name__ == "__main__":
    work = main(int(sys.argv[1]), int(sys.argv[2]))
    if sys.implementation.name == "pypy":  # the loop that a worker has here
        asyncio.run(work)
    else:
        import uvloop

        uvloop.run(work)
