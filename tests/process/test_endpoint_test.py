"""`endpoints test`: a real request, and the exchange as people and programs see it."""

import json
from functools import partial
from pathlib import Path

import anyio
import pytest
from fleet import Receiver
from peer import CERTIFICATES, Peer, answer, serving
from standardwebhooks import Webhook

from worker.cli.app import main
from worker.store.database import Database

KEY = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@pytest.fixture(autouse=True)
def _allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_WORKER_ALLOW_NETWORKS", "127.0.0.0/8 ::1/128")
    monkeypatch.setenv("WEBHOOK_WORKER_ALLOW_HTTP", "1")


async def command(dsn: str, *argv: object) -> int:
    return await anyio.to_thread.run_sync(partial(main, [*map(str, argv), "--database-url", dsn]))


async def test_it_sends_a_signed_message_and_shows_the_exchange(
    dsn: str, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    """The receiver can verify it; what is shown has no key and no value of a custom header; nothing is queued."""
    async with Receiver().listening() as receiver:
        endpoint = await database.value(
            "select id from webhook.create_endpoint($1::text, '', '{\"headers\": {\"X-Token\": \"hush\"}}', array[$2::text])",
            receiver.url(), KEY,
        )  # fmt: skip
        assert 0 == await command(dsn, "endpoints", "test", endpoint, "--format", "json", "--reason", "ticket 9")
        printed = capsys.readouterr().out
        assert 0 == await command(dsn, "endpoints", "test", endpoint)
        shown = capsys.readouterr().out
    first, second = receiver.arrivals
    payload = Webhook(KEY).verify(first.body, first.headers)
    assert {"endpoint_id": endpoint} == payload["data"]
    assert "endpoint.test" == payload["type"]
    assert "hush" == first.headers["x-token"]
    assert first.headers["webhook-id"] != second.headers["webhook-id"]

    record = json.loads(printed)
    assert ("ok", 204, f"127.0.0.1:{receiver.port}", None) == tuple(record[k] for k in ("outcome", "status", "address", "tls"))
    assert first.headers["webhook-signature"] == record["request_headers"]["webhook-signature"]
    assert "***" == record["request_headers"]["X-Token"]
    for text in (printed, shown):
        assert "hush" not in text
        assert KEY[6:] not in text
    assert "< 204" in shown
    assert f"* connected to 127.0.0.1:{receiver.port}" in shown

    audited = await database.rows(
        "select reason from webhook.audit where action = 'endpoint.test' and endpoint_id = $1 order by id", endpoint
    )
    assert [{"reason": "ticket 9"}, {"reason": ""}] == audited
    assert 0 == await database.value("select (select count(*) from webhook.event) + (select count(*) from webhook.attempt)")


async def test_what_fails_is_exit_code_1(dsn: str, database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """A closed port, and an address that the guard rails deny: the same words as an attempt's."""
    closed = await database.value("select id from webhook.create_endpoint('http://127.0.0.1:9/')")
    denied = await database.value("select id from webhook.create_endpoint('http://10.0.0.1/')")
    found = []
    for endpoint in (closed, denied):
        assert 1 == await command(dsn, "endpoints", "test", endpoint, "--allow-port", "1-65535", "--format", "json")
        found.append(json.loads(capsys.readouterr().out))
    assert ["connect", "blocked_address"] == [record["outcome"] for record in found]
    assert 3 == await command(dsn, "endpoints", "test", 999)


async def test_over_tls(dsn: str, database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the workers' file of transports it says what was spoken; without, whom it does not trust, as an attempt would."""
    transports = tmp_path / "transports.toml"
    transports.write_text(f'[ours]\nca_files = ["{CERTIFICATES / "ca.pem"}"]\n')
    ok = answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    async with serving(Peer(ok, tls="good")) as peer:
        made = "select id from webhook.create_endpoint($1::text, settings => jsonb_build_object('transport', $2::text))"
        ours, public = [await database.value(made, peer.url, name) for name in ("ours", "default")]
        assert 0 == await command(dsn, "endpoints", "test", ours, "--transports", transports, "--format", "json")
        record = json.loads(capsys.readouterr().out)
        assert ("ok", 200) == (record["outcome"], record["status"])
        assert record["tls"].startswith("TLSv1.3")
        assert 0 == await command(dsn, "endpoints", "test", ours, "--transports", transports)
        assert f" with {record['tls']}" in capsys.readouterr().out
        assert 1 == await command(dsn, "endpoints", "test", public, "--format", "json")
        record = json.loads(capsys.readouterr().out)
        assert ("tls_certificate", None, None) == (record["outcome"], record["status"], record["tls"])
