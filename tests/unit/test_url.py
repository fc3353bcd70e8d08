"""URLs that two readers could take for two places are refused; the rest come apart in one way."""

import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from worker.core.url import URL_BYTES_MAX, BadURL, Target, parse_url

fuzz = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


def parse(url: str) -> Target:
    return parse_url(url, allow_http=True)


def refused(url: str) -> str:
    """Return why the URL is refused."""
    with pytest.raises(BadURL) as caught:
        parse(url)
    return str(caught.value)


def rebuilt(target: Target) -> str:
    return f"{target.scheme}://{target.authority}{target.path}"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com", Target("https", "example.com", 443, "/")),
        ("https://example.com/hook?x=1&y=%2F", Target("https", "example.com", 443, "/hook?x=1&y=%2F")),
        ("https://example.com?x=1", Target("https", "example.com", 443, "/?x=1")),
        ("https://example.com:8443/", Target("https", "example.com", 8443, "/")),
        ("HTTPS://Example.COM/A", Target("https", "example.com", 443, "/A")),
        ("HtTp://example.com/", Target("http", "example.com", 80, "/")),
        ("https://8.8.8.8/", Target("https", "8.8.8.8", 443, "/")),
        ("https://1.example.com/", Target("https", "1.example.com", 443, "/")),
        ("https://0x7f.example.com/", Target("https", "0x7f.example.com", 443, "/")),
        ("https://x:1/", Target("https", "x", 1, "/")),
        ("https://x:65535/", Target("https", "x", 65535, "/")),
        ("https://[2606:4700::1]:444/", Target("https", "2606:4700::1", 444, "/")),
    ],
)
def test_taken_apart(url: str, target: Target) -> None:
    """A good URL comes apart into scheme, host, port and path."""
    assert target == parse(url)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://example.com:443/", "example.com"),
        ("http://example.com:80/", "example.com"),
        ("http://example.com:443/", "example.com:443"),
        ("https://[::1]:8443/", "[::1]:8443"),
        ("https://[::1]/", "[::1]"),
    ],
)
def test_authority(url: str, authority: str) -> None:
    """The Host header names the port unless it is the scheme's own, and brackets an IPv6 address."""
    assert authority == parse(url).authority


@pytest.mark.fault(1)
@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0X7F000001",
        "127.1",
        "127.0.1",
        "0",
        "0x",
        "0x7f.1",
        "0x7f.0.0.1",
        "1.2.3.0x4",
        "999.1.1.1",
        "256.256.256.256",
        "1.2.3.4.5",
        "1.2.3",
        "a.1",
        "example.0x1f",
        "1.2.3.4..",
        "00",
        "4294967296",
    ],
)
def test_numeric_host(host: str) -> None:
    """A host that looks numeric must be a canonical dotted quad."""
    assert "dotted quad" in refused(f"http://{host}/")


@pytest.mark.fault(2)
@pytest.mark.parametrize("host", ["0177.0.0.1", "1.2.3.04", "127.0.0.01", "00.0.0.0", "127.000.0.1"])
def test_leading_zero(host: str) -> None:
    """A leading zero may be read as octal, so it is refused."""
    assert "dotted quad" in refused(f"http://{host}/")


@pytest.mark.fault(3)
@pytest.mark.parametrize(
    "host",
    [
        "127。0。0。1",
        "127.0.0.1。",
        "\uff11\uff12\uff17.0.0.1",
        "\u2460",
        "\u2460\u2461\u2466.0.0.1",
        "٣",
        "a.٣",
        "0\uff587f.1",
        "8。8。8。8",
    ],
)
def test_numeric_after_normalisation(host: str) -> None:
    """A host that only becomes numeric by normalisation is refused."""
    refused(f"http://{host}/")


@pytest.mark.fault(4)
@pytest.mark.parametrize(
    "url",
    [
        "http://user:pw@h/",
        "http://user@h/",
        "http://@h/",
        "http://good@127.0.0.1/",
        "http://good\\@127.0.0.1/",
        "http://h\\x/",
        "http:\\\\h/",
    ],
)
def test_userinfo(url: str) -> None:
    """User names and backslashes are refused."""
    refused(url)


@pytest.mark.fault(5)
@pytest.mark.parametrize(
    ("host", "normal"),
    [
        ("localhost.", "localhost"),
        ("LOCALHOST", "localhost"),
        ("Example.Com.", "example.com"),
        ("127.0.0.1.", "127.0.0.1"),
        ("loc\u00adalhost", "localhost"),
        ("\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54", "localhost"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("faß.example.", "xn--fa-hia.example"),
        ("a。b.example", "a.b.example"),
    ],
)
def test_normalised(host: str, normal: str) -> None:
    """Names are lower case ASCII without a trailing dot, international ones in their ASCII form."""
    assert normal == parse(f"http://{host}/").host


@pytest.mark.fault(6)
@pytest.mark.parametrize(
    "port", ["0", "00000", "65536", "99999", "123456", "-1", "+80", "８０", "٣", "8 0", "80:80", "0x50", ""]
)
def test_port(port: str) -> None:
    """A port is 1 to 65535 in ASCII digits."""
    refused(f"http://h:{port}/")


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "h/x",
        "//h/",
        "/x",
        "http:",
        "http:h",
        "http:/h",
        "http://",
        "http:///x",
        "http://:80/",
        "http://?x",
        "://h/",
        "ftp://h/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "1http://h/",
        "http://%61/",
        "http://a%2eb/",
        "http://a b/",
        "http:// /",
        "http://./",
        "http://../",
        "http://.a/",
        "http://a..b/",
        "http://a../",
        "http://-a/",
        "http://a-/",
        "http://a.-b.c/",
        "http://a,b/",
        "http://a!b/",
        "http://[]/",
        "http://[::1/",
        "http://::1/",
        "http://[::1]x/",
        "http://[1.2.3.4]/",
        "http://[v1.a]/",
        "http://[:::]/",
        "http://h/ä",
        "http://h/?ä",
        "http://h/<",
        "http://h/|",
    ],
)
def test_malformed(url: str) -> None:
    """Other schemes, and hosts that are missing, escaped or no names, are refused."""
    refused(url)


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    "host",
    [
        "xn--",
        "xn--.com",
        "a.xn--",
        "xn--a",
        "xn--abc-",
        "xn--\uff41",
        "xn--99999999999",
        "a" * 64,
        "ä" * 64,
        "a" * 64 + ".com",
        ".".join(["a" * 49] * 6),
        "\ud800",
        "ä\ud800",
        "ä..b",
        "\u200d",
        "a\u2100b",
        "ä_b",
        "-ä",
        "\u202ea",
        "א1a",
    ],
)
def test_bad_international_name(host: str) -> None:
    """A name that IDNA cannot carry is refused, never a crash."""
    refused(f"http://{host}/")


def test_longest_name() -> None:
    """Labels of 63 and names of 253 characters are fine; one more is not."""
    name = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert (253, name) == (len(name), parse(f"http://{name}/").host)
    refused(f"http://{name}a/")


@pytest.mark.fault(9)
@pytest.mark.parametrize("host", ["[::1%25lo]", "[::1%lo]", "[fe80::1%eth0]", "[fe80::1%251]", "[::1%]"])
def test_zone_id(host: str) -> None:
    """No IPv6 zone ids."""
    assert "zone id" in refused(f"http://{host}/")


@pytest.mark.parametrize(
    ("text", "address"),
    [("::1", "::1"), ("0:0:0:0:0:0:0:1", "::1"), ("2001:DB8::00FF", "2001:db8::ff"), ("::ffff:127.0.0.1", "::ffff:7f00:1")],
)
def test_ipv6_canonical(text: str, address: str) -> None:
    """An IPv6 address has one spelling, whichever was given."""
    host = parse(f"http://[{text}]/").host
    assert str(IPv6Address(address)) == host
    assert IPv6Address(address) == IPv6Address(host)


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    "where", ["http://h/a{}b", "http://h/?a{}b", "http://h{}", "http://h{}/", "http://h:80{}/", "{}http://h/"]
)
def test_control_characters_and_fragments(where: str) -> None:
    """Control characters, white space and fragments are refused wherever they stand."""
    for bad in (*map(chr, range(33)), "\x7f", "#", "#x", "\\", "\r\n", "\x80", "\x85", "\u2028"):
        refused(where.format(bad))


@pytest.mark.fault(10)
def test_length() -> None:
    """2,048 bytes are fine, 2,049 are not."""
    url = "https://h/".ljust(URL_BYTES_MAX, "x")
    assert url == rebuilt(parse(url))
    assert "2048 bytes" in refused(url + "x")
    assert "2048 bytes" in refused("https://" + "ä" * 1021)


def test_plain_http() -> None:
    """Plain http is refused unless it is allowed."""
    with pytest.raises(BadURL, match="allow-http"):
        parse_url("http://example.com/")
    assert "http" == parse_url("http://example.com/", allow_http=True).scheme


pieces = st.sampled_from(
    [
        *(
            "0",
            "1",
            "127",
            "0x7f",
            "0X",
            "01",
            "255",
            "256",
            ".",
            "..",
            "。",
            "a",
            "Z",
            "xn--",
            "-",
            "_",
            "ä",
            "ß",
            "א",
            "\u2460",
        ),
        *(
            "\uff11",
            "@",
            ":",
            ":80",
            "[",
            "]",
            "::1",
            "%",
            "%25",
            "/",
            "?",
            "#",
            "\\",
            " ",
            "\0",
            "\n",
            "\u00ad",
            "\u200d",
            "x",
        ),
    ]
)
hosts = st.lists(pieces, max_size=8).map("".join) | st.text(max_size=12)
numeric = st.lists(
    st.integers(0, 300).map(str)
    | st.integers(0, 300).map(hex)
    | st.integers(0, 300).map("0{:o}".format)
    | st.sampled_from(["", "0x", "a"]),
    min_size=1,
    max_size=5,
).map(".".join)
urls = (
    st.builds("http://{}/".format, hosts | numeric)
    | st.builds(
        "{}://{}{}{}".format,
        st.sampled_from(["http", "HTTPS", "ftp"]),
        hosts,
        st.sampled_from(["", ":1", ":443"]),
        st.text(max_size=6),
    )
    | st.text()
)


@pytest.mark.fault(8)
@fuzz
@given(urls)
@example("http://\ud800/")
def test_one_reading(url: str) -> None:
    """Whatever is given, it is refused as a bad URL, or it means the same when it is rebuilt and read again."""
    with suppress(BadURL):
        target = parse(url)
        assert target == parse(rebuilt(target))


@fuzz
@given(urls)
def test_agrees_with_httpx(url: str) -> None:
    """What is accepted, httpx reads as the same target."""
    with suppress(BadURL):
        target = parse(url)
        other = httpx.URL(rebuilt(target))
        port = other.port or (443 if other.scheme == "https" else 80)
        assert (target.scheme, target.host, target.port) == (other.scheme, other.raw_host.decode(), port)


@pytest.mark.fault(1)
@pytest.mark.fault(2)
@pytest.mark.fault(3)
@fuzz
@given(numeric | hosts)
def test_ipv4_is_canonical(host: str) -> None:
    """A host that the C library reads as an IPv4 address is accepted only as that address's dotted quad."""
    with suppress(BadURL):
        accepted = parse(f"http://{host}/").host
        with suppress(OSError, UnicodeError, ValueError):
            address = socket.inet_ntoa(socket.inet_aton(host))
            assert address == accepted
        with suppress(OSError):
            assert socket.inet_ntoa(socket.inet_aton(accepted)) == accepted


@fuzz
@given(st.ip_addresses(v=4))
def test_every_dotted_quad(address: IPv4Address) -> None:
    """Every canonical dotted quad is accepted as it is."""
    assert str(address) == parse(f"http://{address}/").host


@fuzz
@given(st.ip_addresses(v=6))
def test_every_ipv6_address(address: IPv6Address) -> None:
    """Every IPv6 address is accepted, however it is spelled."""
    assert str(address) == parse(f"http://[{address.exploded.upper()}]/").host
