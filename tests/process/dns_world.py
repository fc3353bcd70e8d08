"""A world of its own for `test_dns.py`: run by `unshare --net --mount`, as root; prints what happened as JSON.

The only name server is one of ours, on 127.0.0.1; the only way out is an interface that leads nowhere, on which every packet
is heard; on 127.0.0.1:80 somebody listens who should never be called.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import anyio
import anyio.lowlevel
from dnslib import AAAA, QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSServer

from worker.core.address import AddressRules
from worker.core.model import Exchange, Request
from worker.endpoints.urls import URLJudge
from worker.http import resolver as resolving
from worker.http.client import Client
from worker.http.dial import Dialer
from worker.http.resolver import Resolver
from worker.http.sender import HttpSender

PUBLIC, OTHER = "9.9.9.9", "8.8.4.4"
SLOW_SECONDS = 20.0


ANSWERS = {
    "good": [PUBLIC],
    "other": [OTHER],
    "private": ["10.0.0.1"],
    "metadata": ["169.254.169.254"],
    "own": ["127.0.0.1"],
    "mixed": [PUBLIC, "10.0.0.1"],
    "sixes": [PUBLIC, "::ffff:10.0.0.1"],
    "rebind": [PUBLIC],  # the first time
    "many": [f"9.9.{n // 250}.{n % 250 + 1}" for n in range(1000)],
}
FAILURES = {"broken": RCODE.SERVFAIL, "none": RCODE.NXDOMAIN}


class Zone(BaseResolver):  # type: ignore[misc]
    """Answers as its names say, and counts who asks for what."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def resolve(self, request: DNSRecord, _handler: object) -> DNSRecord:
        reply, name = request.reply(), str(request.q.qname).rstrip(".")
        if request.q.qtype == QTYPE.A:
            self.asked[name] += 1
        kind = name.partition(".")[0]
        if kind == "slow":
            time.sleep(SLOW_SECONDS)
        reply.header.rcode = FAILURES.get(kind, RCODE.NOERROR)
        addresses = ["127.0.0.1"] if kind == "rebind" and self.asked[name] > 1 else ANSWERS.get(kind, [])
        for address in addresses:
            record, data = (QTYPE.AAAA, AAAA) if ":" in address else (QTYPE.A, A)
            if request.q.qtype == record:
                reply.add_answer(RR(name, record, rdata=data(tuple(ip_address(address).packed)), ttl=0))
        return reply


def listen_on_the_way_out(heard: set[str]) -> None:
    """Note the destination of every IPv4 packet."""
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    ear.bind(("out", 0))

    def run() -> None:
        while True:
            frame = ear.recv(2048)
            if frame[12:14] == b"\x08\x00":
                heard.add(socket.inet_ntoa(frame[30:34]))

    threading.Thread(target=run, daemon=True).start()


def count_callers(calls: list[str]) -> None:
    """Listen on 127.0.0.1:80."""
    door = socket.create_server(("127.0.0.1", 80))

    def run() -> None:
        while True:
            calls.append(door.accept()[1][0])

    threading.Thread(target=run, daemon=True).start()


def make_world(zone: Zone) -> None:
    """Interfaces, a route, a name server."""
    for command in (
        "ip link set lo up",
        "ip link add out type veth peer name nowhere",
        "ip link set out up",
        "ip link set nowhere up",
        "ip addr add 11.0.0.1/30 dev out",
        "ip neigh add 11.0.0.2 lladdr 02:00:00:00:00:02 dev out nud permanent",
        "ip route add default via 11.0.0.2",
    ):
        subprocess.run(command.split(), check=True)
    with tempfile.NamedTemporaryFile("w", delete=False) as file:
        file.write("nameserver 127.0.0.1\noptions timeout:30 attempts:1\n")
    Path(file.name).chmod(0o644)
    subprocess.run(["mount", "--bind", file.name, "/etc/resolv.conf"], check=True)
    for tcp in (False, True):
        DNSServer(zone, address="127.0.0.1", port=53, tcp=tcp, logger=Silent()).start_thread()


class Silent:
    """The server's logger."""

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_: None


async def main(zone: Zone, heard: set[str], calls: list[str]) -> dict[str, object]:
    resolving.KEPT_SECONDS = 0.0  # each connection asks anew
    sender = HttpSender(Client(Dialer(Resolver())), allow_http=True)

    async def send(host: str, seconds: float = 0.4) -> list[str]:
        exchange: Exchange = await sender.send(
            Request(f"http://{host}/", (), b"{}", seconds), lambda _: anyio.lowlevel.checkpoint()
        )
        return [exchange.outcome, exchange.error or ""]

    told: dict[str, object] = {}
    for host in (
        "private.test",
        "metadata.test",
        "own.test",
        "mixed.test",
        "sixes.test",
        "many.test",
        "broken.test",
        "none.test",
    ):
        told[host] = await send(host, 5.0)
    told["heard before"] = sorted(heard)
    told["rebind.test"] = [await send("rebind.test"), await send("rebind.test")]
    started = time.monotonic()
    quick: list[float] = []

    async def beside() -> None:
        await send("good.test")
        quick.append(time.monotonic() - started)

    async with anyio.create_task_group() as group:
        for n in range(70):
            group.start_soon(send, f"slow.n{n}.test", 1.0)
        group.start_soon(beside)
    told["slow"] = [await send("slow.test", 0.5), time.monotonic() - started, quick]
    told["explained"] = [
        [one.denied, one.warning]
        for one in await URLJudge(AddressRules()).explain_many(
            ["https://mixed.test/", "https://none.test/", "https://other.test/"]
        )
    ]
    await sender.aclose()
    return {**told, "asked": zone.asked, "heard": sorted(heard), "calls": calls}


if __name__ == "__main__":
    world, packets, callers = Zone(), set[str](), list[str]()
    make_world(world)
    listen_on_the_way_out(packets)
    count_callers(callers)
    sys.stdout.write(json.dumps(asyncio.run(main(world, packets, callers))))
    sys.stdout.flush()
    os._exit(0)  # nobody waits for a look-up that hangs
