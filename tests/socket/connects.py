"""What a URL makes a worker connect to: the property that the fuzzers look for exceptions to."""

import asyncio
import socket
from ipaddress import IPv6Address, ip_address
from typing import Any

from worker.core.address import BLOCKED_PORTS
from worker.core.model import Request
from worker.http.client import Client
from worker.http.dial import Dialer
from worker.http.resolver import Resolver
from worker.http.sender import HttpSender


class Loop(asyncio.SelectorEventLoop):
    """Keeps a list of what it is asked to connect to, and connects to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] = []

    async def create_connection(self, _: Any, host: Any = None, port: Any = None, **__: Any) -> Any:  # type: ignore[override]
        """Refuse, after taking note."""
        self.asked.append((host, port))
        raise ConnectionRefusedError


def connections(loop: Loop, url: str, answers: list[str]) -> list[tuple[str, int]]:
    """Deliver to a URL, where every name has these addresses; return what was asked of the loop: address and port each.

    A host that the C library reads as an address is that address, whatever we take it for, as a system's resolver has it.
    """

    def look_up(host: str) -> list[str]:
        try:
            return [socket.inet_ntoa(socket.inet_aton(host))]
        except (OSError, UnicodeError, ValueError):
            return answers

    async def deliver() -> None:
        sender = HttpSender(Client(Dialer(Resolver(look_up=look_up))), allow_http=True)

        async def yes(_: bool) -> None:
            return

        exchange = await sender.send(Request(url, (), b"", 5.0), yes)
        assert exchange.status is None
        assert exchange.outcome in ("bad_url", "blocked_address", "blocked_port", "dns", "connect"), exchange
        await sender.aclose()

    loop.asked.clear()
    loop.run_until_complete(deliver())
    return list(loop.asked)


def is_denied(address: str, port: int) -> bool:
    """Whether nobody should be connected to there, by the standard library's word and not by our own table."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif parsed.sixtofour or parsed.teredo or parsed.scope_id:
            return True
    return not parsed.is_global or parsed.is_multicast or str(parsed) == "168.63.129.16" or port in BLOCKED_PORTS
