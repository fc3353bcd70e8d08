"""The log of a worker process: as text, as JSON, or straight to the journal of systemd. One record is one line, or one entry.

What receivers or the database say in it can neither start a line nor steer a terminal, and passwords and keys are taken out.
Warnings and errors that repeat are sampled: one a kind and minute, with how many were left out.
"""

import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from worker.core.sampling import Sampler
from worker.settings import without_password

FORMATS = ("text", "json", "journal")
LEVELS = ("debug", "info", "warning", "error")

FIELDS = ("worker", "endpoint_id", "delivery_id", "event_id", "attempt", "outcome", "status", "task", "error", "left_out")
"""What a record may say beside its message, in this order; documented in docs/logs.md."""

JOURNAL = "/run/systemd/journal/socket"
MESSAGE_LENGTH_MAX = 4000
TRACEBACK_LENGTH_MAX = 16_000

_SECRET = re.compile(r"whs(ec|k)_[A-Za-z0-9+/=_-]+")
_LINE = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {0x2028: "\\u2028", 0x2029: "\\u2029"}
_LINE |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_LINE |= {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}  # these turn a terminal's text around
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


_always: dict[str, Any] = {}


def set_up(form: str | None = None, level: str = "info") -> None:
    """Send what is logged to stderr, or to the journal if stderr is connected with it and nothing else is asked for."""
    chosen = form or ("journal" if _stderr_is_the_journal(os.environ) else "text")
    handler: logging.Handler
    if chosen == "journal":
        handler = JournalHandler(JOURNAL, sys.stderr)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter())
    handler.addFilter(Sampled(time.monotonic))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of each call that a stop cuts short


def say_always(**fields: Any) -> None:
    """Give every record from now on these fields."""
    _always.update(fields)


class Sampled(logging.Filter):
    """The first warning of its kind passes, then one a minute. A kind is a place in the code, and an endpoint or `kind`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock, self._sampler = clock, Sampler()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether it is let through; what sampled itself says `left_out`."""
        said = record.__dict__
        if record.levelno < logging.WARNING or "left_out" in said:
            return True
        place = record.name, str(record.msg)
        left_out = self._sampler.admit((*place, said.get("endpoint_id"), said.get("kind")), place, self._clock())
        record.left_out = left_out
        return left_out is not None


class TextFormatter(logging.Formatter):
    """Lines for people: time, level, logger, message. A traceback is indented, so that nothing in it looks like a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {_message(record)}"
        return "\n    ".join([line, *map(_one_line, _traceback(record).splitlines())])


class JsonFormatter(logging.Formatter):
    """A JSON object a line: time (UTC), level, logger, message, those of `FIELDS` that are known, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a JSON object."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_fields(record),
        }
        if traceback := _traceback(record):
            said["traceback"] = traceback
        return json.dumps(said, default=str)  # ASCII: every control character is escaped


class JournalHandler(logging.Handler):
    """Entries of systemd's journal by its native protocol, with the fields of the JSON format in capitals.

    Where that fails, a line on stderr, with the priority as the prefix that systemd understands (sd-daemon(3)).
    """

    def __init__(self, path: str, stream: TextIO) -> None:
        super().__init__()
        self._path, self._stream = path, stream
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(1.0)  # the event loop waits meanwhile
        self._text = TextFormatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one entry."""
        priority = next((priority for level, priority in _PRIORITIES if record.levelno >= level), _DEBUG)
        try:
            try:
                self._socket.sendto(_entry(record, priority), self._path)
            except OSError:
                lines = self._text.format(record).splitlines()
                self._stream.write("".join([f"<{priority}>{line}\n" for line in lines]))
                self._stream.flush()
        except Exception:  # noqa: BLE001 - as the handlers of the standard library
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _entry(record: logging.LogRecord, priority: int) -> bytes:
    fields = {
        "MESSAGE": _message(record),
        "PRIORITY": priority,
        "SYSLOG_IDENTIFIER": "webhook-worker",
        "LOGGER": record.name,
        **{name.upper(): value for name, value in _fields(record).items()},
    }
    if traceback := _traceback(record):
        fields["TRACEBACK"] = traceback
    entry = b""
    for name, value in fields.items():
        data = str(value).encode("utf-8", "backslashreplace")
        entry += name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return entry


def _message(record: logging.LogRecord) -> str:
    text = _one_line(_without_secrets(record.getMessage())[:MESSAGE_LENGTH_MAX])
    left_out = record.__dict__.get("left_out")
    return f"{text} (and {left_out:,} like it before, left out)" if left_out else text


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    said = {**_always, **record.__dict__}
    fields = {name: said[name] for name in FIELDS if said.get(name) not in (None, "")}
    if "error" not in fields and record.exc_info and record.exc_info[0] is not None:
        fields["error"] = record.exc_info[0].__name__
    if not fields.get("left_out"):
        fields.pop("left_out", None)
    return fields


def _traceback(record: logging.LogRecord) -> str:
    if not (record.exc_info and record.exc_info[0]):
        return ""
    return _without_secrets(logging.Formatter().formatException(record.exc_info))[-TRACEBACK_LENGTH_MAX:]


def _without_secrets(text: str) -> str:
    return _SECRET.sub(r"whs\1_***", without_password(text))


def _one_line(text: str) -> str:
    return text.translate(_LINE).encode("utf-8", "backslashreplace").decode()


def _stderr_is_the_journal(environ: Mapping[str, str]) -> bool:
    """Whether systemd has connected stderr with its journal: it says device and inode of that stream (systemd.exec(5))."""
    try:
        stderr = os.fstat(2)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"
