"""The message that every contestant sends: 1 KiB of JSON, signed as https://www.standardwebhooks.com has it."""

import base64
import hashlib
import hmac
import time

SECRET = b"0123456789abcdef0123456789abcdef"


def signed_headers(message_id: str, payload: str) -> dict[str, str]:
    """Return the headers of one delivery."""
    timestamp = str(int(time.time()))
    signed = hmac.digest(SECRET, f"{message_id}.{timestamp}.{payload}".encode(), hashlib.sha256)
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(signed).decode(),
    }
