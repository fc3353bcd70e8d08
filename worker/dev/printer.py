"""The receiver of `dev`: it verifies each request, and hands on what is to be shown of it."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from worker.dev.lookup import Lookup
from worker.dev.loopback import Posted
from worker.pipeline.ports import StoreError

BIGINT_DIGITS = 18


class Printer:
    """Answers 204 to what an endpoint of this database has signed, 401 to anything else."""

    def __init__(self, lookup: Lookup, show: Callable[[Mapping[str, Any]], None]) -> None:
        self._lookup, self._show = lookup, show

    async def answer(self, request: Posted) -> int:
        """See `worker.dev.loopback.Answer`."""
        webhook_id = request.headers.get("webhook-id", "")
        try:
            endpoint_id = await self._endpoint_of(request)
            event = await self._lookup.event(_event_id(webhook_id))
        except StoreError:
            return 503
        event_type, tenant = event or (None, None)
        self._show(
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
        return 401 if endpoint_id is None else 204

    async def _endpoint_of(self, request: Posted) -> int | None:
        """Return the endpoint whose key has signed this; nothing else in a request tells which endpoint it is for."""
        content = ".".join(request.headers.get(name, "") for name in ("webhook-id", "webhook-timestamp")).encode()
        given = request.headers.get("webhook-signature", "").split(" ")
        for endpoint_id, key in await self._lookup.keys():
            if key.sign(content + b"." + request.body) in given:
                return endpoint_id
        return None


def _event_id(webhook_id: str) -> int:
    """Return the number at the end; that of a message which is no event's (`endpoints test`) leads to none."""
    digits = webhook_id.rpartition("_")[2]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= BIGINT_DIGITS else 0
