"""A receiver that costs as little as Python can: it answers 200 to whatever looks like a request. Prints its port.

With a file name it keeps a log, one line a request: path, and monotonic seconds when its head had arrived.
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
LOG = sys.argv[1:]
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


arrivals: list[tuple[bytes, float]] = []


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
            if LOG:
                arrivals.append((self.buffer.split(b" ", 2)[1], time.monotonic()))
            self.buffer = self.buffer[whole:]
            self.transport.write(ANSWER)


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
            file.writelines(f"{path.decode()} {at}\n" for path, at in arrivals)


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
