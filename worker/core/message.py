"""What every request says of its event (Standard Webhooks, https://www.standardwebhooks.com)."""

from collections.abc import Iterable

from worker import __version__
from worker.core.signing import Signer, sign

USER_AGENT = f"webhook-worker/{__version__}"


def message_headers(
    content_type: str, keys: Iterable[Signer], message_id: str, timestamp: int, body: bytes
) -> tuple[tuple[str, str], ...]:
    """Return the headers that describe, identify and sign a request; `timestamp` in Unix seconds."""
    return (
        ("content-type", content_type),
        ("user-agent", USER_AGENT),
        ("webhook-id", message_id),
        ("webhook-timestamp", str(timestamp)),
        ("webhook-signature", sign(keys, message_id, timestamp, body)),
    )


def message_id(prefix: str, event_id: int) -> str:
    """Return the same for every endpoint and attempt of an event; `prefix` tells databases apart."""
    return f"msg_{prefix}_{event_id}"
