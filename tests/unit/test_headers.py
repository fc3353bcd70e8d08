"""Custom headers."""

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.headers import HEADER_BYTES_MAX, HEADERS_MAX, check_headers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Tenant", "a"),
        ("authorization", "Bearer a.b-c="),
        ("x", "a b\tc"),
        ("!#$%&'*+.^_`|~0aZ-", "~!"),
        ("X-Webhook-Id", "1"),
    ],
)
def test_good(name: str, value: str) -> None:
    """Any valid header of the operator's own may be sent."""
    check_headers({name: value})


@pytest.mark.fault(37)
@pytest.mark.parametrize("bad", ["\r", "\n", "\r\n", "\0", "\x1f", "\x7f", "ä", "\u2028", "\ud800", "\x85"])
@pytest.mark.parametrize("where", ["{}a", "a{}b", "a{}", "{}"])
def test_forbidden_characters(where: str, bad: str) -> None:
    """Control characters and non-ASCII are refused in names and in values."""
    for name, value in ((where.format(bad), "v"), ("X-A", where.format(bad))):
        with pytest.raises(ValueError, match="not a valid name"):
            check_headers({name: value})


@pytest.mark.fault(37)
@pytest.mark.parametrize(
    "name", ["", " ", "a b", " a", "a ", "a:", ":a", "a\tb", "(a)", "a/b", "a=b", '"a"', "a,b", "[a]", "@"]
)
def test_bad_name(name: str) -> None:
    """A name is a token: no spaces, no separators."""
    with pytest.raises(ValueError, match="not a valid name"):
        check_headers({name: "v"})


@pytest.mark.fault(37)
@pytest.mark.parametrize("value", ["", " ", " a", "a ", "\ta", "a\t"])
def test_bad_value(value: str) -> None:
    """A value begins and ends with a visible character: a receiver would strip anything else."""
    with pytest.raises(ValueError, match="not a valid name"):
        check_headers({"X-A": value})


@pytest.mark.fault(38)
@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "hOST",
        "Transfer-Encoding",
        "Connection",
        "Content-Length",
        "Content-Type",
        "User-Agent",
        "Accept-Encoding",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "Expect",
        "Proxy-Authorization",
        "Proxy-Connection",
        "webhook-id",
        "Webhook-Signature",
        "WEBHOOK-anything",
    ],
)
def test_ours(name: str) -> None:
    """Headers that frame the message or sign it belong to the worker."""
    with pytest.raises(ValueError, match="set by the worker"):
        check_headers({name: "v"})


def test_limits() -> None:
    """The number of headers and the bytes of each are bounded, names included."""
    check_headers({f"X-{n}": "v" for n in range(HEADERS_MAX)})
    check_headers({"X": "v" * (HEADER_BYTES_MAX - 1)})
    with pytest.raises(ValueError, match="at most"):
        check_headers({f"X-{n}": "v" for n in range(HEADERS_MAX + 1)})
    for header in ({"X": "v" * HEADER_BYTES_MAX}, {"X" * HEADER_BYTES_MAX: "v"}):
        with pytest.raises(ValueError, match="not a valid name"):
            check_headers(header)


def test_value_is_not_shown() -> None:
    """A value may be a credential, so the error names the header only."""
    with pytest.raises(ValueError, match="X-A") as caught:
        check_headers({"X-A": "canary\n"})
    assert "canary" not in str(caught.value)


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=6), st.text(max_size=6))
def test_agrees_with_h11(name: str, value: str) -> None:
    """Whatever is accepted, a strict HTTP library accepts and leaves as it is."""
    try:
        check_headers({name: value})
    except ValueError:
        return
    request = h11.Request(method="POST", target="/", headers=[("Host", "h"), (name, value)])
    assert (name.lower().encode(), value.encode()) == request.headers[1]
