"""A chunked body, taken apart as its bytes come (RFC 9112, section 7.1). Pure."""

import re
from collections.abc import Iterator

OVERHEAD_BYTES_MAX = 64 * 1024
"""Of extensions and trailers in one body: nobody looks at them."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*(?:;[^\x00\r\n]*)?)\r\n")
_TRAILER = re.compile(rb"(?:([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[^\x00\r\n]*+)?\r\n")

_SIZE_NEXT, _DATA_NEXT, _DATA_END_NEXT, _TRAILERS_NEXT = range(4)


class ChunkError(Exception):
    """The body is not well-formed; where it ends is not known."""


class Chunks:
    """Yields the body's parts from what is fed, until it is `over`; `rest` is what came after it."""

    __slots__ = ("_buffer", "_left", "_next", "_overhead", "over", "rest")

    def __init__(self) -> None:
        self.over = False
        self.rest = b""
        self._buffer = b""
        self._next = _SIZE_NEXT
        self._left = 0
        self._overhead = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Read on. ChunkError if it cannot be read; to be consumed whole, or not at all."""
        data, position = self._buffer + data, 0
        while not self.over:
            if self._next == _DATA_NEXT:
                part = data[position : position + self._left]
                position, self._left = position + len(part), self._left - len(part)
                yield part
                if self._left:
                    break
                self._next = _DATA_END_NEXT
            found = self._line(data, position)
            if found < 0:
                break
            position = found
        if self.over:
            self.rest = data[position:]
        else:
            self._buffer = data[position:]

    def _line(self, data: bytes, position: int) -> int:
        """Read a line that is not data; return where the next thing begins, or -1 if the line is not complete."""
        if self._next == _DATA_END_NEXT:
            if not b"\r\n".startswith(data[position : position + 2]):
                raise ChunkError("a chunk is longer than it said")
            if len(data) < position + 2:
                return -1
            self._next = _SIZE_NEXT
            return position + 2
        end = data.find(b"\n", position) + 1
        if not end:
            if len(data) - position + self._overhead > OVERHEAD_BYTES_MAX:
                raise ChunkError(f"extensions and trailers are longer than {OVERHEAD_BYTES_MAX} bytes")
            return -1
        trailer = self._next == _TRAILERS_NEXT
        line = (_TRAILER if trailer else _SIZE).fullmatch(data, position, end)
        if line is None:
            raise ChunkError(f"a chunk's size or a trailer is malformed: {data[position : min(end, position + 40)]!r}")
        self._overhead += len(line[0]) if trailer else len(line[2])
        if self._overhead > OVERHEAD_BYTES_MAX:
            raise ChunkError(f"extensions and trailers are longer than {OVERHEAD_BYTES_MAX} bytes")
        if trailer:
            self.over = not line[1]
        else:
            self._left = int(line[1], 16)
            self._next = _DATA_NEXT if self._left else _TRAILERS_NEXT
        return end
