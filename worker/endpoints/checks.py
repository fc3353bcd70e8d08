"""Whether an endpoint may have these settings: judged before anything is written, with the rule that forbids it."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from worker.core.backoff import parse_schedule
from worker.core.headers import check_headers
from worker.core.signing import Ed25519Key, Scheme, SigningKey, make_key, read_key
from worker.endpoints.model import EndpointRefusedError, EndpointSettings, NewEndpoint

RETRIES_MAX = 100
TENANT_BYTES_MAX = 255

_EVENT_TYPE = re.compile(r"\*|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*(?:\.\*)?")
_TRANSPORT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_BOUNDS = {
    "rate": (1e-5, 1e6, "a number a second from 0.00001 to 1000000"),
    "burst": (1, 1e6, "a whole number from 1 to 1000000"),
    "max_in_flight": (1, 1e5, "a whole number from 1 to 100000"),
    "timeout_seconds": (math.ulp(0.0), 300.0, "seconds, above 0 and up to 300"),
}


def to_changes(settings: EndpointSettings) -> dict[str, Any]:
    """Check the settings and return them as the SQL functions take them, or raise EndpointRefusedError."""
    changes: dict[str, Any] = dict(settings)
    if unknown := changes.keys() - EndpointSettings.__annotations__.keys():
        raise EndpointRefusedError(f"an endpoint has no setting {', '.join(sorted(unknown))}")
    for name, value in changes.items():
        if name in _BOUNDS and not (name == "rate" and value is None):
            _check_number(name, value)
    if "event_types" in changes:
        changes["event_types"] = _texts("event_types", changes["event_types"])
        for event_type in changes["event_types"]:
            if not _EVENT_TYPE.fullmatch(event_type):
                raise EndpointRefusedError(f"{event_type!r} is no event type to subscribe to, like order.created, order.* or *")
    if "headers" in changes:
        changes["headers"] = _headers(changes["headers"])
    if "transport" in changes and not (isinstance(changes["transport"], str) and _TRANSPORT.fullmatch(changes["transport"])):
        raise EndpointRefusedError(f"{changes['transport']!r} is no name of a transport, like partner-mtls: a-z, 0-9, _ . -")
    if "retry" in changes:
        changes["retry_seconds"] = _schedule(changes.pop("retry"))
    return changes


def to_document(new: NewEndpoint) -> dict[str, Any]:
    """Check a new endpoint, but not its URL and keys; return what `endpoints_create` takes, but for its id and keys."""
    tenant = new.tenant
    if not isinstance(tenant, str) or len(tenant.encode("utf-8", "replace")) > TENANT_BYTES_MAX or not _storable(tenant):
        raise EndpointRefusedError(f"the tenant is a text of up to {TENANT_BYTES_MAX} bytes without NUL")
    return {"url": new.url, "tenant": tenant, "settings": to_changes(new.settings)}


def read_keys(texts: Sequence[str], scheme: Scheme) -> list[SigningKey | Ed25519Key]:
    """Return the keys that are given, or one that is made, of this scheme; EndpointRefusedError if a text is no key."""
    try:
        return [read_key(text) for text in _texts("keys", texts)] or [make_key(scheme)]
    except ValueError as error:
        raise EndpointRefusedError(f"{error}; leave it out and one is made") from None


def _storable(text: str) -> bool:
    """Postgres stores no NUL, and UTF-8 has no lone surrogates."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _check_number(name: str, value: Any) -> None:
    low, high, expected = _BOUNDS[name]
    kinds = (int,) if "whole" in expected else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or not low <= value <= high:
        raise EndpointRefusedError(f"{name} is {value!r}; it must be {expected}")


def _texts(name: str, values: Any) -> list[str]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(isinstance(value, str) for value in values):
        raise EndpointRefusedError(f"{name} must be a list of texts")
    return list(values)


def _headers(headers: Any) -> dict[str, str]:
    if not isinstance(headers, Mapping) or not all(isinstance(text, str) for item in headers.items() for text in item):
        raise EndpointRefusedError("headers must be an object of texts")
    try:
        check_headers(headers)
    except ValueError as error:
        raise EndpointRefusedError(str(error)) from None
    return dict(headers)


def _schedule(retry: Any) -> list[float]:
    if not isinstance(retry, str):
        raise EndpointRefusedError("retry must be a text like '5s 5m 30m'")
    try:
        delays = list(parse_schedule(retry))
    except ValueError as error:
        raise EndpointRefusedError(f"retry: {error}") from None
    if len(delays) > RETRIES_MAX:
        raise EndpointRefusedError(f"retry has {len(delays)} delays; at most {RETRIES_MAX} are allowed")
    return delays
