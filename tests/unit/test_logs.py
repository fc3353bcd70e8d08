"""The log's three formats: service/logs.py."""

import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.service import logs
from worker.service.logs import JournalHandler, JsonFormatter, Sampled, TextFormatter

CANARY = "s3cret-canary"
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FORGED = "refused\n2026-01-01 00:00:00,000 ERROR worker: all is lost\r\x1b[2J\x9b1m\u2028\u202eABC\x00"


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("worker.test")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


class Journal:
    """A socket as journald's, and its reader."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(10)

    def entry(self) -> dict[str, str]:
        """Read one datagram, as systemd's documentation of the native protocol says."""
        data, fields = self.socket.recv(1 << 20), {}
        while data:
            name, _, data = data.partition(b"\n")
            length = int.from_bytes(data[:8], "little")
            fields[name.decode()] = data[8 : 8 + length].decode()
            assert b"\n" == data[8 + length : 9 + length]
            data = data[9 + length :]
        return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "socket")
    yield made
    made.socket.close()


def to_stream(log: logging.Logger, stream: io.StringIO, formatter: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    log.addHandler(handler)
    return handler


def fail() -> None:
    raise ValueError(f"postgresql://me:{CANARY}@db/shop {KEY} {FORGED}")


def test_text_is_time_level_logger_message(log: logging.Logger, stream: io.StringIO) -> None:
    to_stream(log, stream, TextFormatter())
    log.warning("took back %d", 7)

    assert " WARNING worker.test: took back 7\n" == stream.getvalue()[23:]


def test_json_is_an_object_a_line_with_typed_fields(
    log: logging.Logger, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_always", {"worker": "host:1:ab"})
    to_stream(log, stream, JsonFormatter())
    log.error(
        "endpoint %d: no", 7, extra={"endpoint_id": 7, "outcome": "http_status", "status": 500, "left_out": 1234, "other": 1}
    )
    said = json.loads(stream.getvalue())

    assert said.pop("time")[10] == "T"
    assert {
        "level": "error", "logger": "worker.test", "message": "endpoint 7: no (and 1,234 like it before, left out)",
        "worker": "host:1:ab", "endpoint_id": 7, "outcome": "http_status", "status": 500, "left_out": 1234,
    } == said  # fmt: skip


def test_the_journal_gets_priorities_and_fields(log: logging.Logger, journal: Journal) -> None:
    log.addHandler(JournalHandler(str(journal.path), io.StringIO()))
    log.warning("endpoint %d is late", 7, extra={"endpoint_id": 7})
    log.info("well")
    log.debug("hm")

    assert {
        "MESSAGE": "endpoint 7 is late", "PRIORITY": "4", "SYSLOG_IDENTIFIER": "webhook-worker",
        "LOGGER": "worker.test", "ENDPOINT_ID": "7",
    } == journal.entry()  # fmt: skip
    assert ["6", "7"] == [journal.entry()["PRIORITY"] for _ in range(2)]


def test_without_a_journal_the_line_has_its_priority_before_it(
    log: logging.Logger, stream: io.StringIO, tmp_path: Path
) -> None:
    """On stderr, as systemd reads it there; a traceback's lines, too."""
    log.addHandler(JournalHandler(str(tmp_path / "nobody"), stream))
    try:
        fail()
    except ValueError:
        log.exception("it failed")

    lines = stream.getvalue().splitlines()
    assert {"<3>"} == {line[:3] for line in lines}
    assert lines[0].endswith("ERROR worker.test: it failed")


@pytest.mark.fault(68)
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_no_password_no_key_and_no_forged_line(log: logging.Logger, stream: io.StringIO, formatter: logging.Formatter) -> None:
    """In the message and in the traceback, whoever put them there."""
    to_stream(log, stream, formatter)
    log.warning("%s postgresql://me:%s@db/shop password=%s %s", FORGED, CANARY, CANARY, KEY)
    try:
        fail()
    except ValueError:
        log.exception("it failed")
    said = stream.getvalue()

    assert (False, False) == (CANARY in said, KEY[6:] in said)
    assert not [character for character in said if not (character.isprintable() or character == "\n")]
    assert not [line for line in said.splitlines() if line.startswith("2026-01-01")]
    if isinstance(formatter, JsonFormatter):
        assert ["refused", "it failed"] == [json.loads(line)["message"].split("\\n")[0] for line in said.splitlines()]
    else:
        assert 2 == len([line for line in said.splitlines() if not line.startswith("    ")])


@pytest.mark.fault(68)
def test_no_password_no_key_and_no_forged_field_in_the_journal(log: logging.Logger, journal: Journal) -> None:
    """Values carry their length, so that no line of theirs can be a field; and the message is one line."""
    log.addHandler(JournalHandler(str(journal.path), io.StringIO()))
    try:
        fail()
    except ValueError:
        log.exception("%s\nPRIORITY=7 postgresql://me:%s@db/shop %s", FORGED, CANARY, KEY)
    entry = journal.entry()

    assert ("3", "ValueError") == (entry["PRIORITY"], entry["ERROR"])
    assert "\\nPRIORITY=7" in entry["MESSAGE"]
    assert entry["MESSAGE"].isprintable()
    assert "fail()" in entry["TRACEBACK"]
    assert (False, False) == (CANARY in str(entry), KEY[6:] in str(entry))


def test_text_that_is_no_text_is_written_all_the_same(log: logging.Logger, stream: io.StringIO) -> None:
    to_stream(log, stream, TextFormatter())
    log.info("%s", "a\ud800b" + "x" * 10_000)

    assert stream.getvalue()[23:].startswith(" INFO worker.test: a\\ud800bxxx")
    assert len(stream.getvalue()) < 5000


def test_warnings_that_repeat_are_sampled(log: logging.Logger, stream: io.StringIO) -> None:
    """By their place in the code and their endpoint; what is no warning is not."""
    now = 0.0
    to_stream(log, stream, TextFormatter()).addFilter(Sampled(lambda: now))
    for nth in range(1000):
        log.warning("nth %d", nth)
        log.warning("endpoint %d", nth % 2, extra={"endpoint_id": nth % 2})
    for _ in range(3):
        log.info("as ever")
    now = 61.0
    log.warning("nth %d", 1000)

    said = [line.partition(": ")[2] for line in stream.getvalue().splitlines()]
    assert ["nth 0", "endpoint 0", "endpoint 1", *["as ever"] * 3, "nth 1000 (and 999 like it before, left out)"] == said


@pytest.mark.parametrize(("inode", "expected"), [(0, True), (1, False)])
def test_the_journal_is_chosen_if_stderr_is_its_stream(inode: int, expected: bool) -> None:
    stderr = os.fstat(2)

    assert expected == logs._stderr_is_the_journal({"JOURNAL_STREAM": f"{stderr.st_dev}:{stderr.st_ino + inode}"})
    assert not logs._stderr_is_the_journal({})
