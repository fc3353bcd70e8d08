"""Which URLs an endpoint may have (WHATWG URL and RFC 3986, where they agree; refused where they could be read two ways)."""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import idna

URL_BYTES_MAX = 2048

_FORM = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?]*)(?P<rest>.*)", re.DOTALL)
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\#@<>\"`{}|^]")
_LAST_LABEL_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.*")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


class BadURL(ValueError):
    """A URL that no endpoint may have. The text says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart. `host` is ASCII, lower case, without brackets or trailing dot; `path` includes the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


def parse_url(url: str, *, allow_http: bool = False) -> Target:
    """Take a URL apart, or raise BadURL. Addresses are not judged here: see `worker.core.address`."""
    if len(url.encode("utf-8", "surrogatepass")) > URL_BYTES_MAX:
        raise BadURL(f"the URL is longer than {URL_BYTES_MAX} bytes")
    form = _FORM.fullmatch(url)
    if form is None:
        raise BadURL("the URL is not of the form https://host/path")
    scheme = form["scheme"].lower()
    if scheme not in ("http", "https"):
        raise BadURL(f"the scheme is {scheme}, not https")
    if scheme == "http" and not allow_http:
        raise BadURL("plain http is refused unless it is allowed (--allow-http, WEBHOOK_WORKER_ALLOW_HTTP=1)")
    if bad := _FORBIDDEN.search(url):
        raise BadURL(f"the URL contains {bad[0]!r}; user names, fragments, backslashes and spaces are refused")
    authority = _AUTHORITY.fullmatch(form["authority"])
    if authority is None:
        raise BadURL("the host or port is malformed")
    port = int(authority["port"] or (443 if scheme == "https" else 80))
    if not 1 <= port <= 65535:
        raise BadURL(f"port {port} does not exist")
    rest = form["rest"]
    if not rest.isascii():
        raise BadURL("the path contains characters outside ASCII; percent-encode them")
    return Target(scheme, _host(authority["host"]), port, rest if rest.startswith("/") else "/" + rest)


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(IPv6Address(text[1:-1])) if "%" not in text else _refuse("an IPv6 zone id is refused")
        except AddressValueError:
            return _refuse("the IPv6 address is malformed")
    if not text or "%" in text:
        return _refuse("the host is empty or percent-encoded")
    try:
        name = text.lower() if text.isascii() else idna.encode(text, uts46=True).decode()
        if "xn--" in name and idna.encode(idna.decode(name)) != name.encode():
            _refuse("the host is not in its canonical international form")
    except (idna.IDNAError, UnicodeError):
        return _refuse("the host is not a valid international name")
    name = name.removesuffix(".")
    if _LAST_LABEL_NUMERIC.fullmatch(name):  # whoever dials would read it as an IPv4 address, in one way or another
        try:
            return str(IPv4Address(text.removesuffix(".")))  # leading zeros are refused: they may be read as octal
        except AddressValueError:
            return _refuse("the host looks numeric and is not a canonical dotted quad")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        return _refuse("the host is not a valid name")
    return name


def _refuse(why: str) -> str:
    raise BadURL(why)
