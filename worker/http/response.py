"""One response, read as its bytes come. Pure: no socket, no clock. See docs/adr/0015.

What decides a delivery is a complete head. So a head that is not HTTP is an error, and what is wrong after it is a note; in
both cases nothing more can be trusted on that connection.
"""

from worker.http.chunks import ChunkError, Chunks
from worker.http.head import CHUNKED, UNTIL_CLOSE, HeadReader, ProtocolError, framing

INFORMATIONAL_MAX = 20


class Response:
    """`feed` it until that returns True; `end` says that no more will come.

    `status` is None until a complete final head is there (1xx is passed over, save 101, which ends the HTTP). Of the body
    at most `body_max` bytes are read and `kept_max` kept, undecoded. `note` says how the body ended, unless it ended well.
    `complete`: the body ended where it said it would; `reusable`: and nothing came after it.
    """

    __slots__ = ("_body_max", "_chunks", "_head", "_informational", "_kept_max", "_left", "_over", "body",
                 "body_bytes", "complete", "fields", "note", "retry_after", "reusable", "started", "status")  # fmt: skip

    def __init__(self, body_max: int, kept_max: int) -> None:
        self.status: int | None = None
        self.fields = b""
        """The head's; see `worker.http.head.headers`."""
        self.retry_after: bytes | None = None
        self.body = b""
        self.note: str | None = None
        self.complete = False
        self.reusable = False
        self.started = False
        """Whether a byte of it has come."""
        self._body_max, self._kept_max = body_max, kept_max
        self._head = HeadReader()
        self._informational = 0
        self._left = 0
        self._chunks: Chunks | None = None
        self.body_bytes = 0
        """How many were read of it."""
        self._over = False

    def feed(self, data: bytes) -> bool:
        """Read on; True once it is over. ProtocolError if this is no response."""
        self.started = True
        while self.status is None:
            head, data = self._head.feed(data)
            if head is None:
                return False
            if head[2][0] != 49 or head[2] == b"101":  # 49: "1"
                self.status, self.fields = int(head[2]), head[3]
                self._left, self.reusable, self.note, self.retry_after = framing(head)
                if self._left == CHUNKED:
                    self._chunks = Chunks()
                self._over = not self._left
            else:
                self._informational += 1
                if self._informational > INFORMATIONAL_MAX:
                    raise ProtocolError(f"more than {INFORMATIONAL_MAX} responses came before the final one")
                if not data:
                    return False
        if data:
            self._feed_body(data)
        self.complete = self._over and self.note is None
        return self._over

    def end(self, why: str, *, clean: bool) -> bool:
        """Say that no more will come, and why; True if the response is there all the same, if only with a note.

        `clean`: its sender has said so, and it was not cut off on the way.
        """
        if self.status is None:
            return False
        if not self._over:
            if self._left != UNTIL_CLOSE or not clean:
                self.note = f"the response ended early: {why}"
            self.complete = self.note is None
        self._over, self.reusable = True, False
        return True

    def _feed_body(self, data: bytes) -> None:
        if self._over:
            self.reusable = False
        elif self._chunks is not None:
            self._feed_chunks(self._chunks, data)
        elif self._left == UNTIL_CLOSE:
            self._keep(data)
        else:
            self._left -= len(data)
            self._keep(data if self._left >= 0 else data[: self._left])
            if self._left <= 0:
                self._over = True
                self.reusable = self.reusable and not self._left

    def _feed_chunks(self, chunks: Chunks, data: bytes) -> None:
        try:
            for part in chunks.feed(data):
                self._keep(part)
                if self._over:
                    return
        except ChunkError as error:
            self._stop(str(error))
        if chunks.over:
            self._over = True
            self.reusable = self.reusable and not chunks.rest

    def _keep(self, part: bytes) -> None:
        """Keep a part of the body, if it is among the first, and stop if the body becomes too long."""
        if self.body_bytes < self._kept_max:
            self.body += part[: self._kept_max - self.body_bytes]
        self.body_bytes += len(part)
        if self.body_bytes > self._body_max:
            self._stop(f"the response is longer than {self._body_max} bytes; the rest was not read")

    def _stop(self, note: str) -> None:
        self._over, self.reusable, self.note = True, False, note
