"""Endpoint keys sealed at rest: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) under a key-encryption key. See docs/adr/0017.

What is stored is nonce (24 bytes), then ciphertext and tag. The associated data are the key-encryption key's name, the
endpoint's id and the scheme: a sealed key that is copied to another endpoint's row cannot be unsealed there.
"""

import base64
import re
import secrets
from dataclasses import dataclass, field

KEY_BYTES = 32
NONCE_BYTES = 24

_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,62}):([A-Za-z0-9+/]{43}=)")


class CannotUnsealError(Exception):
    """A sealed key cannot be opened here. The text says why, and holds nothing secret."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Key-encryption keys by name; the first seals, all unseal. Without any, keys are stored as they are."""

    _keys: dict[str, bytes] = field(default_factory=dict, repr=False)
    is_exposed: bool = False
    """Whether others than the owner of its file may read that."""

    @classmethod
    def parse(cls, text: str, *, is_exposed: bool = False) -> "KeyRing":
        """Read lines of `name:<32 bytes in base64>`, past empty ones and comments (#); ValueError says which line is wrong."""
        keys: dict[str, bytes] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:
                raise ValueError(f"line {number} is no name, colon and 32 bytes in base64")
            if match[1] in keys:
                raise ValueError(f"line {number} names {match[1]} once more")
            keys[match[1]] = base64.b64decode(match[2])
        if not keys:
            raise ValueError("it holds no key")
        return cls(keys, is_exposed)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __contains__(self, name: str) -> bool:
        return name in self._keys

    @property
    def sealing(self) -> str | None:
        """The name of the key that seals; None: nothing is sealed."""
        return next(iter(self._keys), None)

    def seal(self, secret: bytes, endpoint_id: int, scheme: str) -> tuple[bytes, str | None]:
        """Return what to store for an endpoint's key, and what it is sealed with."""
        name = self.sealing
        if name is None:
            return secret, None
        from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as encrypt

        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + encrypt(secret, _associated(name, endpoint_id, scheme), nonce, self._keys[name]), name

    def unseal(self, stored: bytes, sealed_with: str | None, endpoint_id: int, scheme: str) -> bytes:
        """Return the key of what `seal` returned, for the same endpoint; CannotUnsealError if that cannot be."""
        if sealed_with is None:
            return stored
        if sealed_with not in self._keys:
            raise CannotUnsealError(f"it is sealed with {sealed_with!r}, which is not in the key file")
        from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt
        from nacl.exceptions import CryptoError

        nonce, associated = stored[:NONCE_BYTES], _associated(sealed_with, endpoint_id, scheme)
        try:
            secret: bytes = decrypt(stored[NONCE_BYTES:], associated, nonce, self._keys[sealed_with])
        except (CryptoError, ValueError):
            raise CannotUnsealError(
                f"{sealed_with!r} does not open it: another key has that name, or it was changed or moved"
            ) from None
        return secret


def new_line(name: str) -> str:
    """Return a new line for a key file; ValueError if the name cannot be one."""
    line = f"{name}:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}"
    if _LINE.fullmatch(line) is None:
        raise ValueError(f"{name!r} is no name of letters, digits, dots, dashes and underscores, 63 at most")
    return line


def _associated(name: str, endpoint_id: int, scheme: str) -> bytes:
    return f"{name}:{endpoint_id}:{scheme}".encode()
