"""Ways to reach endpoints, from a file: own authorities, client certificates, other people's transports."""

import ssl
import sys
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from peer import CERTIFICATES, LOOPBACK, OK, Peer, answer, send, serving

from worker.core.model import Request
from worker.http.resolver import Resolver
from worker.http.transports import SenderByTransport, TransportsError, make_sender
from worker.pipeline.ports import Sender


def transports(directory: Path, text: str) -> SenderByTransport:
    """Make the senders of this file; the tests' certificates are beside it."""
    for file in CERTIFICATES.glob("*.pem"):
        (directory / file.name).write_bytes(file.read_bytes())
    (directory / "transports.toml").write_text(text)
    return make_sender(directory / "transports.toml", Resolver(LOOPBACK), allow_http=True)


async def outcome(sender: Sender, url: str, transport: str) -> tuple[int | None, str]:
    """Send one request by a transport."""

    async def yes(_: bool) -> None:
        return

    exchange = await sender.send(Request(url, (), b"{}", 5.0, transport), yes)
    return exchange.status, exchange.outcome


async def test_each_has_its_own_authorities(tmp_path: Path) -> None:
    """Who is trusted by one is not by another, and without a file only public roots are."""
    sender = transports(
        tmp_path, '[ours]\nca_files = ["ca.pem"]\n[both]\nca_files = ["public", "ca.pem"]\n[none]\nca_files = []'
    )
    async with serving(Peer(answer(OK), tls="good")) as peer:
        assert (200, "") == await outcome(sender, peer.url, "ours")
        assert (200, "") == await outcome(sender, peer.url, "both")
        for name in ("none", "default"):
            assert (None, "tls_certificate") == await outcome(sender, peer.url, name)
        assert (None, "no_transport") == await outcome(sender, peer.url, "elsewhere")
        assert (0.0, 0.0) == (sender.lead_seconds(peer.url, "ours"), sender.lead_seconds(peer.url, "elsewhere"))
        await sender.aclose()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_certificate_is_shown_by_the_one_that_has_it(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """The receiver wants to know who asks (mTLS): an endpoint with that transport is delivered, another is not."""
    text = """
        [partner]
        ca_files = ["ca.pem"]
        certificate_file = "client.pem"
        key_file = "client-key.pem"
        [other]
        ca_files = ["ca.pem"]"""
    sender = transports(tmp_path, text)
    async with serving(Peer(answer(OK), tls="good", tls_max=version, client_ca="client")) as peer:
        assert (200, "") == await outcome(sender, peer.url, "partner")
        status, reason = await outcome(sender, peer.url, "other")
        assert (None, True) == (
            status,
            reason in {"tls_handshake", "disconnected"},
        )  # in TLS 1.3 it is told after the handshake
        assert 1 == len(peer.requests)
        await sender.aclose()


async def test_a_factorys_transport_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever speaks httpx's interface."""
    module = ModuleType("shop_transports")
    module.proxy = lambda: httpx.MockTransport(lambda _: httpx.Response(203))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop_transports", module)
    sender = transports(tmp_path, '[egress]\nfactory = "shop_transports:proxy"')
    assert (203, "") == await outcome(sender, "https://receiver.example/", "egress")
    assert 0.0 == sender.lead_seconds("https://receiver.example/", "egress")
    await sender.aclose()


async def test_the_default_can_be_changed(tmp_path: Path) -> None:
    """For the endpoints that name none."""
    sender = transports(tmp_path, '[default]\nca_files = ["ca.pem"]')
    async with serving(Peer(answer(OK), tls="good")) as peer:
        assert 200 == (await send(sender, peer.url)).status
        await sender.aclose()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a", "cannot be read"),
        ("a = 1", "outside of any table"),
        ("[a]\nca_file = 'x'", "transport 'a' .*: there is no setting ca_file; there are factory, ca_files"),
        ("[a]\nca_files = ['missing.pem']", "transport 'a' .*there is no file .*missing.pem"),
        ("[a]\nca_files = ['transports.toml']", "transport 'a' "),
        ("[a]\ncertificate_file = 'client.pem'", "transport 'a' "),
        ("[a]\nkey_file = 'client-key.pem'", "a key_file needs a certificate_file"),
        ("[a]\nfactory = 'no_such_module:x'", "transport 'a' .*no_such_module"),
        ("[a]\nfactory = 'os:no_such'", "transport 'a' .*no_such"),
        ("[a]\nfactory = 'os:getcwd'\nca_files = []", "with a factory there is no ca_files"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    """At the start, with the entry and what is wrong with it."""
    with pytest.raises(TransportsError, match=said):
        transports(tmp_path, text)


def test_no_such_file(tmp_path: Path) -> None:
    """Told by its name."""
    with pytest.raises(TransportsError, match=r"missing\.toml cannot be read"):
        make_sender(tmp_path / "missing.toml", Resolver(), allow_http=True)
