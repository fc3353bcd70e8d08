"""A receiver that costs as little as Python can: it answers 200 to whatever looks like a request.

    python -m benchmarks.receiver [LOG] [--port PORT] [--tls CERTIFICATE] [--any] [--tally]

Prints its port, and then that of its TLS; and, for every line that it reads, how many requests it has answered. With `--tally`
it says instead, as JSON, how many it has `answered`, how many `different` payloads (by their `"n"`) were among them, and
`took`: for each number of milliseconds since `"sent"`, how many came after so long, since it was last asked. That is for runs
too long for a log.

Paths that begin with `/fail/` are answered 500, `/slow/SECONDS/` after so long, `/hang/` never. With a file name it keeps a
log, one line a request: path, monotonic seconds when it had arrived, webhook-id, and the payload's `"sent"` (nan: none).
`arrivals.py` reads it.
"""

import argparse
import asyncio
import json
import os
import re
import resource
import signal
import ssl
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import cast

LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
MESSAGE = re.compile(rb"webhook-id: *([^\r]+)", re.IGNORECASE)
SENT = re.compile(rb'"sent": *([0-9.]+)')
NUMBERED = re.compile(rb'"n": *([0-9]+), *"sent": *([0-9.]+)')
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FAILURE = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno"


class Tally:
    """Which numbered payloads came, and how long they took: a bit each, and a count a millisecond."""

    def __init__(self) -> None:
        self.different = 0
        self._came = bytearray()
        self._took: Counter[int] = Counter()

    def add(self, number: int, seconds: float) -> None:
        """Count one."""
        byte, bit = number >> 3, 1 << (number & 7)
        if byte >= len(self._came):
            self._came.extend(bytes(max(byte + 1, 1 << 16)))
        if not self._came[byte] & bit:
            self._came[byte] |= bit
            self.different += 1
        self._took[int(seconds * 1e3)] += 1

    def tell(self) -> str:
        """Say what came, and begin a new interval."""
        took, self._took = self._took, Counter()
        return json.dumps({"answered": answered, "different": self.different, "took": took})


arrivals: list[tuple[bytes, float, bytes, bytes]] | None = None
tally: Tally | None = None
answered = 0


class Connection(asyncio.Protocol):
    """One keep-alive connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport, self.buffer = cast("asyncio.WriteTransport", transport), b""  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Answer every complete request."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            found = LENGTH.search(self.buffer, 0, end + 2)
            whole = end + 4 + (int(found[1]) if found else 0)
            if len(self.buffer) < whole:
                return
            path = self.buffer.split(b" ", 2)[1]
            if arrivals is not None:
                message, sent = MESSAGE.search(self.buffer, 0, end + 2), SENT.search(self.buffer, end, whole)
                arrivals.append((path, time.monotonic(), message[1] if message else b"-", sent[1] if sent else b"nan"))
            elif tally is not None and (numbered := NUMBERED.search(self.buffer, end, whole)):
                tally.add(int(numbered[1]), time.monotonic() - float(numbered[2]))
            self.buffer = self.buffer[whole:]
            self.answer(path)

    def answer(self, path: bytes) -> None:
        """Do what the path says."""
        global answered  # noqa: PLW0603 - a count for whoever asks
        answered += 1
        kind, _, rest = path[1:].partition(b"/")
        if kind == b"slow":
            asyncio.get_running_loop().call_later(float(rest.partition(b"/")[0]), self.transport.write, ANSWER)
        elif kind != b"hang":
            self.transport.write(FAILURE if kind == b"fail" else ANSWER)


async def main(arguments: argparse.Namespace) -> None:
    """Serve for ever."""
    global arrivals, tally  # noqa: PLW0603 - this process is one receiver
    log: str | None = arguments.log
    arrivals = None if log is None else []
    tally = Tally() if arguments.tally else None
    address = "0.0.0.0" if arguments.any else "127.0.0.1"
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with suppress(PermissionError):  # it is the clock of the audits: it should not wait for a processor
        os.nice(-15)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    servers = [await loop.create_server(Connection, address, arguments.port, backlog=10_000)]
    if arguments.tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.tls)
        servers.append(await loop.create_server(Connection, address, 0, ssl=context, backlog=10_000))
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    threading.Thread(target=_tell, daemon=True).start()
    await stop.wait()
    for server in servers:
        server.close()
    if log is not None:
        with open(log, "w") as file:  # noqa: ASYNC230, PTH123 - at the end
            file.writelines(
                f"{path.decode()} {at!r} {message.decode()} {sent.decode()}\n" for path, at, message, sent in arrivals or ()
            )


def _tell() -> None:
    for _ in sys.stdin:
        print(answered if tally is None else tally.tell(), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.receiver")
    parser.add_argument("log", nargs="?")
    parser.add_argument("--port", type=int, default=0, help="for one whose URL is known before it is there (default: any)")
    parser.add_argument("--tls", metavar="CERTIFICATE")
    parser.add_argument("--any", action="store_true", help="listen on every address, not only 127.0.0.1")
    parser.add_argument("--tally", action="store_true", help="count what is numbered, and say so instead")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(_arguments()))
    else:
        uvloop.run(main(_arguments()))
