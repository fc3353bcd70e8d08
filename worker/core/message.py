"""What every request says of its event (Standard Webhooks, https://www.standardwebhooks.com)."""

from collections.abc import Iterable

from worker.core.signing import Signer, sign


def message_headers(keys: Iterable[Signer], message_id: str, timestamp: int, body: bytes) -> tuple[tuple[str, str], ...]:
    """Return the headers that identify and sign a request; `timestamp` in Unix seconds."""
    return (
        ("webhook-id", message_id),
        ("webhook-timestamp", str(timestamp)),
        ("webhook-signature", sign(keys, message_id, timestamp, body)),
    )


def message_id(prefix: str, event_id: int) -> str:
    """Return the same for every endpoint and attempt of an event; `prefix` tells databases apart."""
    return f"msg_{prefix}_{event_id}"
