"""Which addresses and ports a worker may dial: guard rails, each of which can be taken off.

A table of our own: `ipaddress.is_global` calls some private addresses global (64:ff9b::7f00:1, 2002:7f00:1::1, multicast)
and differs between Python versions.

Sources: the IANA special-purpose address registries (RFC 6890), plus 168.63.129.16, the host agent of one cloud; for ports,
the Fetch standard's list of those that no browser sends to (https://fetch.spec.whatwg.org/#port-blocking), since what
listens there is no web server, and might take a POST for commands.
"""

from dataclasses import dataclass
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
BLOCKED_PORTS = frozenset(
    (
        0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
        111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540,
        548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566,
        6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Where a worker may connect to. As they come, the rules deny what is not the public internet, and odd ports.

    `allow` makes exceptions to the table of networks. `deny` forbids more, and has the last word. `ports` are all that are
    allowed, in place of all that no browser refuses.
    """

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    ports: tuple[range, ...] = ()

    def judge(self, address: str) -> str | None:
        """Return None if the address may be dialled, else the rule that forbids it. ValueError if it is no address."""
        parsed: Address = ip_address(address)
        if isinstance(parsed, IPv6Address):
            if parsed.scope_id is not None:
                return "an IPv6 zone id"
            parsed = parsed.ipv4_mapped or parsed  # ::ffff:a.b.c.d reaches a.b.c.d
        if denied := _holding(self.deny, parsed):
            return f"--deny-network {denied}"
        if _holding(self.allow, parsed):
            return None
        if isinstance(parsed, IPv6Address) and parsed not in _ALLOWED_V6:
            return f"outside {_ALLOWED_V6}"
        found = _holding(_DENIED_V4 if isinstance(parsed, IPv4Address) else _DENIED_V6, parsed)
        return None if found is None else str(found)

    def judge_port(self, port: int) -> str | None:
        """Return None if the port may be connected to, else the rule that forbids it."""
        if self.ports:
            return None if any(port in ports for ports in self.ports) else f"--allow-port {format_ports(self.ports)}"
        return "no web server's: browsers refuse it, too" if port in BLOCKED_PORTS else None


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


def parse_ports(text: str) -> tuple[range, ...]:
    """Read ports and ranges (8000-8999), separated by commas or spaces; `any` is all. ValueError names what is wrong."""
    return tuple(_port_range(part) for part in text.replace(",", " ").split())


def format_ports(ports: tuple[range, ...]) -> str:
    """Write what `parse_ports` reads."""
    return " ".join(str(each[0]) if len(each) == 1 else f"{each[0]}-{each[-1]}" for each in ports)


def _port_range(text: str) -> range:
    if text == "any":
        return range(1, 65536)
    first, dash, last = text.partition("-")
    numbers = [first, last] if dash else [first, first]
    if all(number.isascii() and number.isdigit() and len(number) <= 5 for number in numbers):
        low, high = map(int, numbers)
        if 1 <= low <= high <= 65535:
            return range(low, high + 1)
    raise ValueError(f"{text!r} is no port and no range of ports")


def _holding(networks: tuple[Network, ...], address: Address) -> Network | None:
    return next((network for network in networks if address in network), None)
