"""Whether an endpoint may have this URL: parse, resolve, judge; and the same told step by step.

It is looked at when an endpoint is registered, for whoever registers it. What a worker finds when it connects is law.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from worker.core.address import AddressRules, is_address
from worker.core.url import Target, parse_url
from worker.endpoints.model import EndpointRefusedError

RESOLVE_SECONDS_MAX = 5.0
RESOLVERS_MAX = 32


@dataclass(slots=True)
class Explanation:
    """What becomes of a URL. Rules are None where nothing forbids it; `error` says why it is none of ours."""

    target: Target | None = None
    error: str | None = None
    port_rule: str | None = None
    addresses: list[tuple[str, str | None]] = field(default_factory=list)
    """Each address that the host has now, and the rule that forbids it."""

    @property
    def denied(self) -> str | None:
        """Why it is refused, and what could allow it. One bad address spoils them all."""
        if self.target is None:
            return self.error
        if self.port_rule is not None:
            advice = "--allow-port or WEBHOOK_WORKER_ALLOW_PORTS can allow it"
            return f"port {self.target.port} is denied ({self.port_rule}); {advice}"
        for address, rule in self.addresses:
            if rule is not None:
                host = self.target.host
                shown = host if address == host else f"{host} resolves to {address}, which"
                advice = "--allow-network or WEBHOOK_WORKER_ALLOW_NETWORKS can allow it"
                if rule.startswith("--deny-network"):
                    advice = "nothing else can allow it"
                return f"{shown} is denied by the address rules ({rule}); {advice}"
        return None

    @property
    def warning(self) -> str | None:
        """What is no reason to refuse it."""
        if self.target is None or self.addresses:
            return None
        return f"{self.target.host} does not resolve now; its deliveries fail until it does"


class URLJudge:
    """Judges URLs and the addresses behind them. Each host is resolved once in this object's (short) life."""

    def __init__(self, rules: AddressRules | None = None, *, allow_http: bool = False) -> None:
        self._rules, self._allow_http = rules or AddressRules(), allow_http
        self._addresses: dict[str, list[str]] = {}

    async def explain_many(self, urls: Sequence[str]) -> list[Explanation]:
        """Explain each, resolving several hosts at once."""
        explanations = [self._parse(url) for url in urls]
        limiter = anyio.CapacityLimiter(RESOLVERS_MAX)
        hosts = {one.target.host for one in explanations if one.target is not None and one.port_rule is None}
        async with anyio.create_task_group() as group:
            for host in hosts - self._addresses.keys():
                group.start_soon(self._look_up, host, limiter)
        for one in explanations:
            if one.target is not None:
                found = self._addresses.get(one.target.host, [])
                one.addresses = [(address, self._rules.judge(address)) for address in found]
        return explanations

    async def judge(self, url: str) -> tuple[str, ...]:
        """Return the warnings about a URL, or raise EndpointRefusedError."""
        one = (await self.explain_many([url]))[0]
        if one.denied is not None:
            raise EndpointRefusedError(one.denied)
        return () if one.warning is None else (one.warning,)

    def _parse(self, url: str) -> Explanation:
        try:
            target = parse_url(url, allow_http=self._allow_http)
        except (ValueError, TypeError, AttributeError) as error:  # from a caller without types, a URL may be anything
            return Explanation(error=str(error) if isinstance(url, str) else "the URL is not a text")
        return Explanation(target, port_rule=self._rules.judge_port(target.port))

    async def _look_up(self, host: str, limiter: anyio.CapacityLimiter) -> None:
        self._addresses[host] = [host] if is_address(host) else await _resolve(host, limiter)


async def _resolve(host: str, limiter: anyio.CapacityLimiter) -> list[str]:
    """Return the host's addresses, none if it has none or they do not come in time. A slow resolver's thread is left."""
    with anyio.move_on_after(RESOLVE_SECONDS_MAX):
        try:
            answers = await anyio.to_thread.run_sync(
                lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM), abandon_on_cancel=True, limiter=limiter
            )
        except (OSError, UnicodeError):
            return []
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in answers))
    return []
