"""Trace context of the W3C (https://www.w3.org/TR/trace-context/), on its way from a producer to a receiver.

Stored as one text: `traceparent`, and after a line break `tracestate`, if there is one.
"""

import re

TRACE_HEADERS = ("traceparent", "tracestate")

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
_PARENT_LENGTH = 55
_PARENT_BYTES_MAX = 255
_MEMBER = "[a-z0-9][a-z0-9_*/@-]*=[!-+.-<>-~ -]*"
_STATE = re.compile(f"{_MEMBER}(, *{_MEMBER})*")
_STATE_BYTES_MAX = 512
_MEMBERS_MAX = 32


def trace_context(traceparent: str | None, tracestate: str | None = None) -> str | None:
    """Return what is stored of a context; what is not valid is left out, as that says. As `webhook.trace_context`."""
    if traceparent is None or len(traceparent) > _PARENT_BYTES_MAX or not _PARENT.fullmatch(traceparent):
        return None
    if traceparent.startswith("00") and len(traceparent) > _PARENT_LENGTH:
        return None
    stored = "00" + traceparent[2:_PARENT_LENGTH]  # a later version is read as this one
    if tracestate is None or len(tracestate) > _STATE_BYTES_MAX or tracestate.count(",") >= _MEMBERS_MAX:
        return stored
    return f"{stored}\n{tracestate}" if _STATE.fullmatch(tracestate) else stored


def trace_headers(stored: str | None) -> tuple[tuple[str, str], ...]:
    """Return the headers that carry a stored context."""
    return () if stored is None else tuple(zip(TRACE_HEADERS, stored.split("\n"), strict=False))
