"""What operational events say, in memory: the payloads of 290_operational.sql."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.store.memory_tables import Sched, StoredDelivery


def changed(endpoint: "Sched", reason: str) -> dict[str, Any]:
    """Say which endpoint was disabled or recovered, and why."""
    url = endpoint.config.url.split("?")[0].split("#")[0]
    return {"endpoint_id": endpoint.config.id, "url": url, "reason": reason}


def died(delivery: "StoredDelivery") -> dict[str, Any]:
    """Say which delivery is dead, and how its last attempt ended."""
    return {
        "delivery_id": delivery.id,
        "event_id": delivery.event.id,
        "event_type": delivery.event.event_type,
        "endpoint_id": delivery.endpoint_id,
        "attempts": delivery.attempt,
        "last_outcome": delivery.last_outcome,
        "last_status": delivery.last_status,
    }


def document(event_type: str, now: float, data: Mapping[str, Any]) -> bytes:
    """Return the payload."""
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": event_type, "timestamp": at, "data": data}).encode()
