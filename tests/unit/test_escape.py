"""What is kept of a receiver's words."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.core.escape import RESPONSE_BYTES_KEPT, escape

pytestmark = pytest.mark.fault(30)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", ""),
        (b"ok", "ok"),
        ("größer €".encode(), "größer €"),
        (b"a\tb\r\nc", "a\tb\r\nc"),
        (b"a\0b", "a\\x00b"),
        ("ä".encode("latin-1"), "\\xe4"),
        (b"\xff\xfe", "\\xff\\xfe"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
        (b"\xc0\x80", "\\xc0\\x80"),
        (b"\x1b[31m\x7f", "\\x1b[31m\\x7f"),
        ("\x9b31m".encode(), "\\x9b31m"),
        ("\x85".encode(), "\\x85"),
        (b"\x0b\x0c", "\\x0b\\x0c"),
    ],
)
def test_escaped(body: bytes, text: str) -> None:
    r"""Valid UTF-8 stays; control characters and broken bytes are written as `\xNN`."""
    assert text == escape(body)


def test_cut() -> None:
    """The first KiB is kept, even if that cuts a character in two."""
    assert "a" * RESPONSE_BYTES_KEPT == escape(b"a" * 10_000)
    assert "a" * (RESPONSE_BYTES_KEPT - 1) + "\\xe2" == escape(b"a" * (RESPONSE_BYTES_KEPT - 1) + "€".encode())


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=2000) | st.text(max_size=1500).map(str.encode))
@example(b"\0" * RESPONSE_BYTES_KEPT)
@example(b"\xff" * 2 * RESPONSE_BYTES_KEPT)
def test_storable(body: bytes) -> None:
    """Whatever the bytes, the text is short, is UTF-8 and JSON, and holds no control character but tab, CR and LF."""
    text = escape(body)
    assert len(text.encode()) <= 4 * RESPONSE_BYTES_KEPT
    assert text == json.loads(json.dumps(text, ensure_ascii=False))
    assert not [c for c in text if (ord(c) < 32 and c not in "\t\r\n") or 127 <= ord(c) < 160]
