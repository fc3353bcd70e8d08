"""Signing keys on their way into the database: sealed, if there is a key to seal them with."""

import base64
from collections.abc import Iterable
from typing import Any

from worker.core.sealing import CannotUnsealError, KeyRing
from worker.core.signing import Ed25519Key, SigningKey, public_text
from worker.endpoints.model import EndpointKey
from worker.store.database import Row


def key_document(key: SigningKey | Ed25519Key, ring: KeyRing, endpoint_id: int) -> dict[str, Any]:
    """Return a key as functions/410_keys.sql takes it."""
    scheme, public = ("v1a", _text(key.public)) if isinstance(key, Ed25519Key) else ("v1", None)
    stored, sealed_with = ring.seal(key.secret, endpoint_id, scheme)
    return {"scheme": scheme, "secret": _text(stored), "sealed_with": sealed_with, "public": public}


def registered_key(row: Row) -> EndpointKey:
    """Read a row of the statement `endpoint_keys`."""
    public = row["public_key"] and public_text(base64.b64decode(row["public_key"]))
    return EndpointKey(**{**row, "public_key": public})


def sealed_anew(rows: Iterable[Row], ring: KeyRing) -> tuple[list[dict[str, Any]], list[str]]:
    """Seal rows of the statement `keys_page` with the ring's first key; also say which cannot be, and why."""
    documents, failed = [], []
    for row in rows:
        stored, endpoint_id, scheme = base64.b64decode(row["secret"]), row["endpoint_id"], row["scheme"]
        try:
            secret = ring.unseal(stored, row["sealed_with"], endpoint_id, scheme)
        except CannotUnsealError as error:
            failed.append(f"key {row['id']} of endpoint {endpoint_id}: {error}")
            continue
        sealed, name = ring.seal(secret, endpoint_id, scheme)
        documents.append({"id": row["id"], "before": _text(stored), "secret": _text(sealed), "sealed_with": name})
    return documents, failed


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
