"""The receiver of `dev`: it verifies each request, and hands on what is to be shown of it."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import anyio

from worker.dev.lookup import Lookup
from worker.dev.loopback import Posted
from worker.pipeline.ports import StoreError

BIGINT_DIGITS = 18
WAITING_MAX = 1000
"""How many requests may wait to be shown."""


class Printer:
    """Answers 204 to what an endpoint of this database has signed, 401 to anything else.

    `show` is called in a thread, with one request after another, while `show_all` runs: who reads what it prints may be slow.
    """

    def __init__(
        self, url: str, lookup: Lookup, show: Callable[[Mapping[str, Any]], None], tell: Callable[[str], None]
    ) -> None:
        self._url, self._lookup, self._show, self._tell = url, lookup, show, tell
        self._waiting, self._records = anyio.create_memory_object_stream[Mapping[str, Any]](WAITING_MAX)
        self._left_out = 0

    async def show_all(self) -> None:
        """Show what comes, until the printer is closed, and say how many requests were too many to be shown."""
        async with self._records:
            async for record in self._records:
                await anyio.to_thread.run_sync(self._show, record, abandon_on_cancel=True)
                left_out, self._left_out = self._left_out, 0
                if left_out:
                    self._tell(f"{left_out} requests were answered, and not shown: what is printed is not read as fast")

    def close(self) -> None:
        """Let `show_all` end when it has shown what waits."""
        self._waiting.close()

    async def answer(self, request: Posted) -> int:
        """See `worker.dev.loopback.Answer`."""
        webhook_id = request.headers.get("webhook-id", "")
        try:
            endpoint_id = await self._endpoint_of(request)
            event = await self._lookup.event(_event_id(webhook_id))
        except StoreError:
            return 503
        event_type, tenant = event or (None, None)
        try:
            self._waiting.send_nowait(
                {
                    "at": datetime.now(UTC),
                    "webhook_id": webhook_id,
                    "event_type": event_type,
                    "tenant": tenant,
                    "endpoint_id": endpoint_id,
                    "signature": "wrong" if endpoint_id is None else "ok",
                    "content_type": request.headers.get("content-type", ""),
                    "payload": request.body.decode("utf-8", "backslashreplace"),
                }
            )
        except anyio.WouldBlock:
            self._left_out += 1
        return 401 if endpoint_id is None else 204

    async def _endpoint_of(self, request: Posted) -> int | None:
        """Return the endpoint whose key has signed this; nothing else in a request tells which endpoint it is for."""
        content = ".".join(request.headers.get(name, "") for name in ("webhook-id", "webhook-timestamp")).encode()
        given = request.headers.get("webhook-signature", "").split(" ")
        for url in (self._url, None):  # first the few that are most likely
            for endpoint_id, key in await self._lookup.keys(url):
                if key.sign(content + b"." + request.body) in given:
                    return endpoint_id
        return None


def _event_id(webhook_id: str) -> int:
    """Return the number at the end; that of a message which is no event's (`endpoints test`) leads to none."""
    digits = webhook_id.rpartition("_")[2]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= BIGINT_DIGITS else 0
