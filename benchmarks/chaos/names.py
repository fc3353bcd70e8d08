"""A name server that can be made to fail."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Literal, cast

from dnslib import QTYPE, RCODE, RR, A, DNSRecord

Mode = Literal["answers", "fails", "silent"]


class NameServer(asyncio.DatagramProtocol):
    """Knows one name. It does as `mode` says: answers, says SERVFAIL, or nothing."""

    def __init__(self, name: str, address: str) -> None:
        self.mode: Mode = "answers"
        self._name, self._address = name, address
        self._transport: asyncio.DatagramTransport

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        address: tuple[str, int] = self._transport.get_extra_info("sockname")
        return address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question."""
        if self.mode == "silent":
            return
        question = DNSRecord.parse(data)
        reply = question.reply()
        if self.mode == "fails":
            reply.header.rcode = RCODE.SERVFAIL
        elif str(question.q.qname).rstrip(".") != self._name:
            reply.header.rcode = RCODE.NXDOMAIN
        elif question.q.qtype == QTYPE.A:
            reply.add_answer(RR(self._name, QTYPE.A, rdata=A(tuple(ip_address(self._address).packed)), ttl=0))
        self._transport.sendto(reply.pack(), addr)


@asynccontextmanager
async def name_server(listen: str, name: str, address: str, port: int = 53) -> AsyncIterator[NameServer]:
    """Serve on an address. Resolvers know no other port."""
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(name, address), local_addr=(listen, port)
    )
    try:
        yield server
    finally:
        transport.close()
