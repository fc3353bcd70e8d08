"""Standard Webhooks signatures (https://www.standardwebhooks.com, specification 1.0.0): `v1`, symmetric, and `v1a`, Ed25519."""

import base64
import secrets
from binascii import b2a_base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from hmac import digest
from typing import Literal, Protocol

Scheme = Literal["v1", "v1a"]

SECRET_BYTES = 32


class Signer(Protocol):
    """Makes one signature of a request."""

    def sign(self, content: bytes) -> str:
        """Return the signature of `id.timestamp.body` as the header has it: scheme, comma, base64."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A secret shared with the receiver (`v1`, HMAC-SHA256). It never shows in a repr, so never in a log or a traceback."""

    secret: bytes = field(repr=False)

    @classmethod
    def from_text(cls, text: str) -> "SigningKey":
        """Read `whsec_<base64>`; ValueError unless it holds 24 to 64 bytes (the specification's bounds)."""
        secret = _decoded(text, "whsec")
        if not 24 <= len(secret) <= 64:
            message = 'a key is "whsec_" and 24 to 64 bytes in base64'
            raise ValueError(message)
        return cls(secret)

    def sign(self, content: bytes) -> str:
        """See `Signer`."""
        # hmac.digest, not hmac.new: one call into OpenSSL, and hmac.new leaks on PyPy before 8.0.1.
        return "v1," + b2a_base64(digest(self.secret, content, "sha256"), newline=False).decode()


class Ed25519Key:
    """A private key (`v1a`, Ed25519 of RFC 8032), whose public half the receiver has. `secret` is the seed of 32 bytes."""

    __slots__ = ("_pair", "secret")

    def __init__(self, secret: bytes) -> None:
        import nacl.bindings  # here: most workers never need it, and it takes a while to load

        self.secret = secret
        self._pair = nacl.bindings.crypto_sign_seed_keypair(secret)

    @classmethod
    def from_text(cls, text: str) -> "Ed25519Key":
        """Read `whsk_<base64>`: the seed, or the seed and the public key after it; ValueError if it is neither."""
        secret = _decoded(text, "whsk")
        key = cls(secret[:SECRET_BYTES]) if len(secret) in (SECRET_BYTES, 2 * SECRET_BYTES) else None
        if key is None or secret[SECRET_BYTES:] not in (b"", key.public):
            message = 'an Ed25519 key is "whsk_" and in base64 its 32 bytes, or these and its public key'
            raise ValueError(message)
        return key

    @property
    def public(self) -> bytes:
        """The half that receivers verify with, 32 bytes."""
        public: bytes = self._pair[0]
        return public

    def sign(self, content: bytes) -> str:
        """See `Signer`."""
        import nacl.bindings

        signed = nacl.bindings.crypto_sign(content, self._pair[1])
        return "v1a," + b2a_base64(signed[: nacl.bindings.crypto_sign_BYTES], newline=False).decode()


def read_key(text: str) -> SigningKey | Ed25519Key:
    """Read a key as people write it, `whsec_…` or `whsk_…`; ValueError if it is neither."""
    return Ed25519Key.from_text(text) if text.startswith("whsk_") else SigningKey.from_text(text)


def make_key(scheme: Scheme) -> SigningKey | Ed25519Key:
    """Make a new key from the system's strong source of randomness."""
    secret = secrets.token_bytes(SECRET_BYTES)
    return Ed25519Key(secret) if scheme == "v1a" else SigningKey(secret)


def shown(key: SigningKey | Ed25519Key) -> str:
    """Return what the receiver verifies with, as text: the secret itself (`whsec_…`), or the public half (`whpk_…`)."""
    if isinstance(key, Ed25519Key):
        return public_text(key.public)
    return "whsec_" + base64.b64encode(key.secret).decode()


def public_text(public: bytes) -> str:
    """Return an Ed25519 key's public half as text."""
    return "whpk_" + base64.b64encode(public).decode()


def sign(keys: Iterable[Signer], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` header: a signature for each key, space-separated, of `id.timestamp.body`."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return " ".join([key.sign(content) for key in keys])


def _decoded(text: str, prefix: str) -> bytes:
    before, _, encoded = text.partition("_")
    try:
        return base64.b64decode(encoded, validate=True) if before == prefix else b""
    except ValueError:
        return b""
