"""Which addresses a worker may dial.

A table of our own: `ipaddress.is_global` calls some private addresses global (64:ff9b::7f00:1, 2002:7f00:1::1, multicast)
and differs between Python versions.

Source: the IANA special-purpose address registries (RFC 6890), plus 168.63.129.16, the host agent of one cloud.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_DENIED_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
    )
)  # fmt: skip
_ALLOWED_V6 = IPv6Network("2000::/3")
_DENIED_V6 = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read CIDRs separated by commas or spaces; ValueError names the one that is wrong."""
    return tuple(ip_network(part) for part in text.replace(",", " ").split())


def is_address(text: str) -> bool:
    """Whether a host is an address rather than a name."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def judge(address: str, allow: Sequence[Network] = ()) -> str | None:
    """Return None if the address may be dialled, else the rule that forbids it. ValueError if it is no address."""
    parsed: Address = ip_address(address)
    if isinstance(parsed, IPv6Address):
        if parsed.scope_id is not None:
            return "an IPv6 zone id"
        parsed = parsed.ipv4_mapped or parsed  # ::ffff:a.b.c.d reaches a.b.c.d
    if any(parsed in network for network in allow):
        return None
    if isinstance(parsed, IPv4Address):
        return next((str(network) for network in _DENIED_V4 if parsed in network), None)
    if parsed not in _ALLOWED_V6:
        return f"outside {_ALLOWED_V6}"
    return next((str(network) for network in _DENIED_V6 if parsed in network), None)
