"""Bytes from receivers as text that any database and terminal can hold."""

RESPONSE_BYTES_KEPT = 1024

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), 11, 12, *range(14, 32), *range(127, 160))}


def escape(body: bytes) -> str:
    r"""Return the first KiB as text: valid UTF-8 stays, other bytes and control characters (NUL too) become `\\xNN`."""
    kept = body[:RESPONSE_BYTES_KEPT].decode("utf-8", "backslashreplace")
    return kept if kept.isprintable() else kept.translate(_CONTROL)
