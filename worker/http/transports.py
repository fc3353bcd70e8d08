"""Ways to reach endpoints, by name, from a file of the worker's: own authorities, client certificates, any httpx transport.

The file is TOML, a table for each name; `default` is for the endpoints that name none. Paths are relative to the file.

    [partner]
    ca_files = ["partner-ca.pem"]        # trusted; "public" stands for the public roots, which are the default
    certificate_file = "client.pem"      # shown to the receiver (mTLS), with
    key_file = "client-key.pem"          # its key, unless that is in the same file

    [egress]
    factory = "shop.transports:proxy"    # called once; returns an httpx.AsyncBaseTransport
"""

import importlib
import logging
import ssl
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import certifi

from worker.core.model import Exchange, Request
from worker.http.client import Client
from worker.http.dial import Dialer, default_tls
from worker.http.pool import IDLE_MAX, Pool
from worker.http.resolver import Resolver
from worker.http.sender import HttpSender
from worker.pipeline.ports import Sender

log = logging.getLogger("worker.http")

DEFAULT = "default"

_TLS_SETTINGS = {"ca_files", "certificate_file", "key_file"}


class TransportsError(ValueError):
    """The file of transports cannot be used. The text says which entry is wrong, and how."""


class SenderByTransport:
    """See `worker.pipeline.ports.Sender`: hands each request to the sender of its transport."""

    def __init__(self, senders: Mapping[str, Sender]) -> None:
        self._senders = senders

    def lead_seconds(self, url: str, transport: str) -> float:
        """See the port."""
        sender = self._senders.get(transport)
        return 0.0 if sender is None else sender.lead_seconds(url, transport)

    async def send(self, request: Request, before_write: Callable[[bool], Awaitable[None]]) -> Exchange:
        """See the port. A transport that this worker does not know is a failed attempt: others may know it."""
        sender = self._senders.get(request.transport)
        if sender is None:
            return Exchange(None, "no_transport", f"this worker has no transport named {request.transport!r}")
        return await sender.send(request, before_write)

    async def aclose(self) -> None:
        """Close them all, whatever one of them has to say about it."""
        for name, sender in self._senders.items():
            try:
                await sender.aclose()
            except Exception:
                log.warning("transport %r could not be closed", name, exc_info=True)


def make_sender(
    path: Path | None,
    resolver: Resolver,
    *,
    allow_http: bool,
    idle_max: int = IDLE_MAX,
    client: Callable[[Dialer, Pool], Client] = Client,
) -> SenderByTransport:
    """Make the senders that a file describes, and the default one. TransportsError if it cannot be used.

    Together they keep up to `idle_max` connections. `client` makes what carries an exchange over ours.
    """
    entries = {DEFAULT: {}, **({} if path is None else _read(path))}
    directory = Path() if path is None else path.parent
    pool = Pool(idle_max)  # of all: a connection belongs to its sender's own origin, so none is shown another's certificate
    senders: dict[str, Sender] = {}
    for name, entry in entries.items():
        try:
            senders[name] = _sender(entry, directory, resolver, lambda dialer: client(dialer, pool), allow_http=allow_http)
        except Exception as error:
            raise TransportsError(f"transport {name!r} of {path}: {error}") from error
    return SenderByTransport(senders)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            entries = tomllib.load(file)
    except (OSError, ValueError) as error:
        raise TransportsError(f"the transports file {path} cannot be read: {error}") from error
    if loose := [name for name, entry in entries.items() if not isinstance(entry, dict)]:
        raise TransportsError(f"{path}: {loose[0]!r} is outside of any table; write [name] above it")
    return entries


def _sender(
    entry: Mapping[str, Any], directory: Path, resolver: Resolver, client: Callable[[Dialer], Client], *, allow_http: bool
) -> Sender:
    if "factory" in entry:
        if unknown := set(entry) - {"factory"}:
            raise ValueError(f"with a factory there is no {', '.join(sorted(unknown))}")
        from worker.http.foreign import ForeignSender

        module, _, function = str(entry["factory"]).partition(":")
        return ForeignSender(getattr(importlib.import_module(module), function)(), allow_http=allow_http)
    if unknown := set(entry) - _TLS_SETTINGS:
        raise ValueError(
            f"there is no setting {', '.join(sorted(unknown))}; there are factory, {', '.join(sorted(_TLS_SETTINGS))}"
        )
    if not entry:
        return HttpSender(client(Dialer(resolver)), allow_http=allow_http)
    tls = _tls(entry, directory)
    return HttpSender(client(Dialer(resolver, lambda: tls)), allow_http=allow_http)


def _tls(entry: Mapping[str, Any], directory: Path) -> ssl.SSLContext:
    context = default_tls(() if "ca_files" in entry else (certifi.where(),))
    for name in entry.get("ca_files", ()):
        context.load_verify_locations(certifi.where() if name == "public" else _existing(directory / name))
    if "certificate_file" in entry:
        key = _existing(directory / entry["key_file"]) if "key_file" in entry else None
        context.load_cert_chain(_existing(directory / entry["certificate_file"]), key, password=_no_password)
    elif "key_file" in entry:
        raise ValueError("a key_file needs a certificate_file")
    return context


def _existing(path: Path) -> Path:
    if not path.is_file():  # OpenSSL's own message does not say which
        raise ValueError(f"there is no file {path}")
    return path


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one that is not, readable to the worker alone")
