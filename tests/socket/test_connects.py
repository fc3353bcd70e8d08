"""No URL that is accepted makes a worker connect to a denied address, whatever its name resolves to. See also fuzz_urls.py."""

from collections.abc import Iterator

import pytest
from connects import Loop, connections, is_denied
from hypothesis import example, given
from hypothesis import strategies as st

NUMBERS = st.integers(0, 2**32 - 1).map(str) | st.integers(0, 2**32 - 1).map(hex) | st.integers(0, 255).map("0{:o}".format)
HOSTS = (
    st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map("[{}]".format)
    | st.lists(NUMBERS | st.sampled_from(["", "1", "127", "①", "localhost"]), min_size=1, max_size=4).map(".".join)
    | st.sampled_from(["localhost", "LOCALHOST.", "example.com", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "127。0。0。1"])
    | st.text(max_size=12)
)
URLS = st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP"]),
    st.sampled_from(["", "user@", "a:b@", "good\\@"]),
    HOSTS,
    st.sampled_from(["", ":80", ":22", ":0", ":65536", ":٣"]),
    st.sampled_from(["/", "", "?", "/../", "#f", "\\", "/%0d%0a"]),
) | st.text(max_size=40)
ANSWERS = st.lists(
    st.ip_addresses().map(str)
    | st.sampled_from(["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "::ffff:10.0.0.1", "127.0.0.1"]),
    max_size=4,
)


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.mark.fault(11)
@pytest.mark.fault(13)
@given(URLS, ANSWERS)
@example("http://2130706433/", ["8.8.8.8"])
@example("http://example.com:22/", ["8.8.8.8"])
@example("http://example.com/", ["8.8.8.8", "127.0.0.1"])
def test_nothing_that_is_denied_is_connected_to(loop: Loop, url: str, answers: list[str]) -> None:
    """Address and port, of every connection that is asked for; and the sender never raises."""
    assert [] == [one for one in connections(loop, url, answers) if is_denied(*one)]


@pytest.mark.fault(12)
@given(st.sampled_from(["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"]))
def test_what_is_allowed_is_connected_to(loop: Loop, answer: str) -> None:
    """Else the other test would say nothing."""
    assert [(answer, 443)] == connections(loop, "https://example.com/", [answer])
