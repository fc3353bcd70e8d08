"""Standard Webhooks signatures (https://www.standardwebhooks.com, specification 1.0.0), symmetric scheme `v1`."""

import base64
from binascii import b2a_base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from hmac import digest


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An endpoint's secret. It never shows in a repr, so that it never shows in a log or a traceback."""

    secret: bytes = field(repr=False)

    @classmethod
    def from_text(cls, text: str) -> "SigningKey":
        """Read `whsec_<base64>`; ValueError unless it holds 24 to 64 bytes (the specification's bounds)."""
        prefix, _, encoded = text.partition("_")
        try:
            secret = base64.b64decode(encoded, validate=True)
        except ValueError:
            secret = b""
        if prefix != "whsec" or not 24 <= len(secret) <= 64:
            message = 'a key is "whsec_" and 24 to 64 bytes in base64'
            raise ValueError(message)
        return cls(secret)


def sign(keys: Iterable[SigningKey], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` header: one `v1,<base64>` a key, space-separated, HMAC-SHA256 of `id.timestamp.body`."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    # hmac.digest, not hmac.new: one call into OpenSSL, and hmac.new leaks on PyPy before 8.0.1.
    return " ".join(["v1," + b2a_base64(digest(key.secret, signed, "sha256"), newline=False).decode() for key in keys])
