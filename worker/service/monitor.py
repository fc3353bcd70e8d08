"""GET /metrics, /livez and /readyz, beside the deliveries and never at their cost (docs/adr/0020).

A connection has one small deadline, there are few, the oldest makes room for the newest, and one scrape a second is computed,
however many ask.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import cast

import anyio
import anyio.to_thread
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup

from worker.service.loop_lag import watch_loop
from worker.service.measured import Measured
from worker.settings import ListenAddress

BACKLOG = 32
CONNECTIONS_MAX = 16
HEAD_BYTES_MAX = 8192
DEADLINE_SECONDS = 5.0
"""For one connection: request and answer."""
FULL_SECONDS = 0.01
"""How long nobody else is let in when all connections were taken: who floods us is not worth more of the loop."""
FRESH_SECONDS = 1.0
"""So long the text of one scrape serves others."""
ACCEPT_AGAIN_SECONDS = 0.1
LISTEN_AGAIN_SECONDS = 10.0

TEXT = "text/plain; charset=utf-8"
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"

_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)

log = logging.getLogger("worker.monitor")


class Monitor:
    """Answers whoever watches this worker."""

    def __init__(self, measured: Measured, address: ListenAddress, clock: Callable[[], float] = time.monotonic) -> None:
        self._measured, self._address, self._clock = measured, address, clock
        self._open: list[anyio.CancelScope] = []
        self._expose: Callable[[], bytes] | None = None
        self._scraped, self._scraped_at = b"", float("-inf")

    async def run(self) -> None:
        """Listen for ever. A port that is taken is said once, and tried again: a predecessor may still hold it."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._load)
            await self._listen()

    async def _load(self) -> None:
        """Import what takes its time in a thread, while deliveries go out."""
        self._expose = await anyio.to_thread.run_sync(_exposition, self._measured)

    async def _listen(self) -> None:
        failed = False
        while True:
            try:
                listener = await anyio.create_tcp_listener(
                    local_host=self._address.host, local_port=self._address.port, backlog=BACKLOG
                )
            except OSError as error:
                if not failed:
                    log.warning(
                        "no metrics, deliveries go on: cannot listen on %s (%s): free it, or give another --metrics-listen; "
                        "tried again every %d s", self._address, error.strerror or error, LISTEN_AGAIN_SECONDS,
                    )  # fmt: skip
                failed = True
                await anyio.sleep(LISTEN_AGAIN_SECONDS)
                continue
            async with listener, anyio.create_task_group() as group:
                for one in listener.listeners:
                    name = one.extra(SocketAttribute.local_address)  # noqa: S610 - it is no database's
                    log.info("metrics on http://%s/metrics", ListenAddress(str(name[0]), int(name[1])))
                    group.start_soon(self._accept, cast("SocketListener", one), group)

    async def _accept(self, listener: SocketListener, group: TaskGroup) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError:  # it has gone again, or we are out of files
                await anyio.sleep(ACCEPT_AGAIN_SECONDS)
                continue
            if len(self._open) >= CONNECTIONS_MAX:
                self._open[0].cancel()
                await anyio.sleep(FULL_SECONDS)
            scope = anyio.CancelScope(deadline=anyio.current_time() + DEADLINE_SECONDS)
            self._open.append(scope)
            group.start_soon(self._serve, stream, scope)

    async def _serve(self, stream: SocketStream, scope: anyio.CancelScope) -> None:
        """Answer one request; then the connection ends."""
        try:
            with scope, suppress(*_GONE):
                async with stream:
                    head = b""
                    while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES_MAX:
                        head += await stream.receive(HEAD_BYTES_MAX)
                    await stream.send(self._respond(head))
        finally:
            self._open.remove(scope)

    def _respond(self, head: bytes) -> bytes:
        """Return the whole response to a request's head."""
        words = head.partition(b"\r\n")[0].split(b" ")
        status, content_type, body = HTTPStatus.OK, TEXT, b""
        if len(head) >= HEAD_BYTES_MAX:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        elif len(words) != 3:
            status = HTTPStatus.BAD_REQUEST
        elif words[0] not in (b"GET", b"HEAD"):
            status = HTTPStatus.METHOD_NOT_ALLOWED
        else:
            try:
                status, content_type, body = self._look_up(words[1].partition(b"?")[0])
            except Exception:  # what is shown may have a bug; what is delivered must not have it too
                log.exception("a request could not be answered")
                status = HTTPStatus.INTERNAL_SERVER_ERROR
        if not body:
            body = f"{status} {status.phrase}\n".encode()
        fields = f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        start = f"HTTP/1.1 {status} {status.phrase}\r\n{fields}\r\n".encode()
        return start if words[0] == b"HEAD" else start + body

    def _look_up(self, path: bytes) -> tuple[HTTPStatus, str, bytes]:
        if path == b"/metrics":
            if self._expose is None:
                return HTTPStatus.SERVICE_UNAVAILABLE, TEXT, b"not yet: the worker has just started\n"
            return HTTPStatus.OK, EXPOSITION, self._scrape(self._expose)
        if path == b"/livez":  # the loop turns, or nobody would say so
            return HTTPStatus.OK, TEXT, b"ok\n"
        if path == b"/readyz":
            problem = self._measured.health.problem
            if problem is None:
                return HTTPStatus.OK, TEXT, b"ready\n"
            return HTTPStatus.SERVICE_UNAVAILABLE, TEXT, f"not ready: {problem}\n".encode()
        return HTTPStatus.NOT_FOUND, TEXT, b"there are /metrics, /livez and /readyz\n"

    def _scrape(self, expose: Callable[[], bytes]) -> bytes:
        now = self._clock()
        if now - self._scraped_at >= FRESH_SECONDS:
            self._scraped, self._scraped_at = expose(), now
        return self._scraped


async def monitor(measured: Measured, address: ListenAddress) -> None:
    """Watch this worker, and show it, for ever."""
    async with anyio.create_task_group() as group:
        group.start_soon(measured.health.watch)
        group.start_soon(watch_loop, measured.loop_lag)
        group.start_soon(Monitor(measured, address).run)


def _exposition(measured: Measured) -> Callable[[], bytes]:
    from worker.service.metrics import exposition

    return exposition(measured)
