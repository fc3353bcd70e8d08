"""Retry-After."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.retry_after import HOLD_SECONDS_MAX, parse_retry_after

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT

pytestmark = pytest.mark.fault(33)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("1", 1.0),
        (" 5 ", 5.0),
        ("0000000000005", 5.0),
        ("86400", 86_400.0),
        ("86401", 86_400.0),
        ("1000000000", 86_400.0),
        (str(10**20), 86_400.0),
        ("9" * 5000, 86_400.0),
        ("Sun, 06 Nov 1994 08:49:38 GMT", 1.0),
        ("Mon, 07 Nov 1994 08:49:37 GMT", 86_400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
    ],
)
def test_honoured(value: str, seconds: float) -> None:
    """ASCII digits and HTTP dates are honoured, up to 24 h."""
    assert seconds == parse_retry_after(value, NOW)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        " ",
        "0",
        "-5",
        "+5",
        "1e9",
        "1.5",
        "1_000",
        "0x10",
        "٣",
        "３",
        "²",
        "nan",
        "inf",
        "5 seconds",
        "5,5",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:36 GMT",
        "Thu, 01 Jan 0001 00:00:00 GMT",
        "Sat, 01 Jan 0000 00:00:00 GMT",
        "Tue, 08 Nov 1994 08:49:37 +9999",
        "Tue, 08 Nov 1994 08:49:37 +0000",
        "Tue, 08 Nov 1994 08:49:37",
        "Tue, 08 Nov 1994 08:49:37 UTC",
        "Tue, 31 Nov 1994 08:49:37 GMT",
        "Tue, 08 Foo 1994 08:49:37 GMT",
        "Tue, 08 Nov 1994 25:49:37 GMT",
        "Tue, 08 Nov 1994 08:49:60 GMT",
        "Tuesday, 08-Nov-94 08:49:37 GMT",
        "Tue Nov  8 08:49:37 1994",
        "1994-11-08T08:49:37Z",
        "Tue, ٠٨ Nov 1994 08:49:37 GMT",
        "Tue, 08 Nov 1994 08:49:37 GMT\0",
    ],
)
def test_ignored(value: str | None) -> None:
    """Everything else says nothing: the past, other scripts' digits, zones, obsolete formats, dates that do not exist."""
    assert parse_retry_after(value, NOW) is None


times = st.from_regex(r"(Mon|Sun), [0-9]{2} (Jan|Feb|Nov|Xxx) [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT", fullmatch=True)


@settings(deadline=None, max_examples=40)
@given(st.none() | st.text() | st.integers().map(str) | times, st.floats(-1e9, 1e12))
def test_in_bounds(value: str | None, now: float) -> None:
    """Whatever a receiver says, the result is None or in (0, 24 h]."""
    seconds = parse_retry_after(value, now)
    assert seconds is None or 0 < seconds <= HOLD_SECONDS_MAX
