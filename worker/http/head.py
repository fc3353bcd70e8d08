"""The head of a response: where it ends, what it says, how long its body is (RFC 9112). Pure."""

import re

HEAD_BYTES_MAX = 64 * 1024

CHUNKED = -1
UNTIL_CLOSE = -2

_LINES = (
    rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?EOL"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[^\x00-\x08\x0a-\x1f\x7f]*+EOL)*+)EOL"
)
_HEAD = re.compile(_LINES.replace(b"EOL", rb"\r\n"))
_HEAD_LONE_LF = re.compile(_LINES.replace(b"EOL", rb"\r?\n"))
_HEAD_END = re.compile(rb"\n\r?\n")
_FOLD = re.compile(rb"\r\n[ \t]+")
_FRAMING = re.compile(rb"\n(content-length|transfer-encoding|connection|retry-after):[ \t]*([^\r\n]*[^\r\n \t]|)")
_FIELD = re.compile(rb"([^:\r\n]+):[ \t]*([^\r\n]*)\r?\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")

Head = re.Match[bytes]
"""Groups: minor version, status, all fields with their line ends."""


class ProtocolError(Exception):
    """What came is not the head of an HTTP/1.x response."""


class HeadReader:
    """Finds one head at the beginning of what is fed."""

    __slots__ = ("_buffer", "_searched")

    def __init__(self) -> None:
        self._buffer = b""
        self._searched = 0

    def feed(self, data: bytes) -> tuple[Head | None, bytes]:
        """Return the head and what came after it, or None if it is not complete. ProtocolError if this is no response.

        Lines may end in LF alone (section 2.2), and may be folded (section 5.2), but not both.
        """
        head = None if self._buffer else _HEAD.match(data)  # nearly always it comes whole
        if head is None:
            head, data = self._in_pieces(self._buffer + data)
            if head is None:
                return None, b""
        if head.end() > HEAD_BYTES_MAX:
            raise ProtocolError(f"the head is longer than {HEAD_BYTES_MAX} bytes")
        return head, data[head.end() :]

    def _in_pieces(self, data: bytes) -> tuple[Head | None, bytes]:
        if data[:7] != b"HTTP/1."[: len(data)]:
            raise ProtocolError(f"this is not HTTP/1.x: {data[:40]!r}")
        end = _HEAD_END.search(data, self._searched)
        if end is None:
            if len(data) > HEAD_BYTES_MAX:
                raise ProtocolError(f"the head is longer than {HEAD_BYTES_MAX} bytes")
            self._buffer, self._searched = data, max(0, len(data) - 2)
            return None, b""
        self._buffer, self._searched = b"", 0
        fields = data.index(b"\n") + 1
        unfolded = data[:fields] + _FOLD.sub(b" ", data[fields : end.end()])
        head = _HEAD.fullmatch(unfolded) or _HEAD_LONE_LF.fullmatch(unfolded)
        if head is None:
            raise ProtocolError(f"the head is malformed: {data[:40]!r}")
        return head, unfolded + data[end.end() :]


def framing(head: Head) -> tuple[int, bool, str | None, bytes | None]:
    """Return what the head says of what follows (section 6.3): length, reusable, note, Retry-After.

    The length is a number of bytes, CHUNKED or UNTIL_CLOSE; with a note it cannot be told, and nothing should be read.
    `reusable`: another response may follow on the connection.
    """
    found = _FRAMING.findall(head[0].lower())
    fields: dict[bytes, bytes] = dict(found)
    if len(fields) < len(found):  # some field stands more than once: then its values are one list (RFC 9110, section 5.3)
        fields = {name: b",".join(value for other, value in found if other == name) for name in fields}
    retry_after = _retry_after(head) if b"retry-after" in fields else None
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    reusable = head[1] == b"1" and b"close" not in fields.get(b"connection", b"") and head.re is _HEAD
    if length is None:
        size: int | None = None
    elif _LENGTH.fullmatch(length):
        size = int(length)
    else:
        values = {part.strip(b" \t") for part in length.split(b",")}
        size, reusable = (int(value) if len(values) == 1 and _LENGTH.fullmatch(value := values.pop()) else None), False
    if head[2] in (b"204", b"304", b"101"):  # no body, whatever it says of one
        return 0, reusable and coding is None and head[2] != b"101", None, retry_after
    if length is not None and size is None:
        return 0, False, f"its content-length {length[:40]!r} is ambiguous; the body was not read", retry_after
    if coding is not None:
        if coding != b"chunked" or head[1] != b"1":
            return 0, False, f"its transfer-encoding {coding[:40]!r} is not understood; the body was not read", retry_after
        return CHUNKED, reusable and length is None, None, retry_after  # both: somebody may have read it differently
    if size is None:
        return UNTIL_CLOSE, False, None, retry_after
    return size, reusable, None, retry_after


def headers(fields: bytes) -> list[tuple[bytes, bytes]]:
    """Return the fields of a head, in order, as they came."""
    return [(name, value.rstrip(b" \t")) for name, value in _FIELD.findall(fields)]


def _retry_after(head: Head) -> bytes:
    return next(value for name, value in headers(head[3]) if name.lower() == b"retry-after")
