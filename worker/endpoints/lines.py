"""Endpoints as text: one JSON object a line."""

import json
from typing import Any, cast

from worker.endpoints.model import EndpointSettings, NewEndpoint

LINE_BYTES_MAX = 1024 * 1024


def read_line(line: bytes) -> NewEndpoint:
    """Read one line, or raise ValueError. The names are checked later, with their values, where an endpoint is made."""
    if len(line) > LINE_BYTES_MAX:
        raise ValueError(f"longer than {LINE_BYTES_MAX} bytes")
    try:
        document: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("url"), str):
        raise ValueError("not an object with a url")  # noqa: TRY004 - a wrong value, as every other
    settings = {name: value for name, value in document.items() if name not in ("url", "tenant", "keys")}
    return NewEndpoint(
        document["url"], document.get("tenant", ""), cast("EndpointSettings", settings), document.get("keys", ())
    )
