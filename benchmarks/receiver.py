"""A receiver that costs as little as Python can: it answers 200 to whatever looks like a request. Prints its port.

Paths that begin with `/fail/` are answered 500, `/slow/SECONDS/` after so long, `/hang/` never. With a file name it keeps a
log, one line a request: path, monotonic seconds when it had arrived, webhook-id, and the payload's `"sent"` (nan: none).
`arrivals.py` reads it.
"""

import asyncio
import os
import re
import signal
import sys
import time
from contextlib import suppress
from typing import cast

LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
MESSAGE = re.compile(rb"webhook-id: *([^\r]+)", re.IGNORECASE)
SENT = re.compile(rb'"sent": *([0-9.]+)')
LOG = sys.argv[1:]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FAILURE = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno"

arrivals: list[tuple[bytes, float, bytes, bytes]] = []


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
            if LOG:
                message, sent = MESSAGE.search(self.buffer, 0, end + 2), SENT.search(self.buffer, end, whole)
                arrivals.append((path, time.monotonic(), message[1] if message else b"-", sent[1] if sent else b"nan"))
            self.buffer = self.buffer[whole:]
            self.answer(path)

    def answer(self, path: bytes) -> None:
        """Do what the path says."""
        kind, _, rest = path[1:].partition(b"/")
        if kind == b"slow":
            asyncio.get_running_loop().call_later(float(rest.partition(b"/")[0]), self.transport.write, ANSWER)
        elif kind != b"hang":
            self.transport.write(FAILURE if kind == b"fail" else ANSWER)


async def main() -> None:
    """Serve for ever."""
    with suppress(PermissionError):  # it is the clock of the audits: it should not wait for a processor
        os.nice(-15)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stop.wait()
    server.close()
    for name in LOG:
        with open(name, "w") as file:  # noqa: ASYNC230, PTH123 - at the end
            file.writelines(
                f"{path.decode()} {at!r} {message.decode()} {sent.decode()}\n" for path, at, message, sent in arrivals
            )


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
