"""What `python -m benchmarks chaos` relies on: its receivers and its name server tell the truth."""

import hashlib
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest
from dnslib import RCODE, DNSRecord
from fleet import ROOT

from benchmarks.chaos.collect import read_arrivals
from benchmarks.chaos.names import Mode, name_server
from worker.core.signing import SigningKey, sign

KEY = SigningKey(b"k" * 32)
BODY = '{"é": 1}'.encode()
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[str]:
    """Run them; yield their URL."""
    key = "whsec_" + b64encode(KEY.secret).decode()
    command = [sys.executable, "-m", "benchmarks.chaos.receivers", "127.0.0.1", str(tmp_path / "log"), key, "here"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def headers(message: str, body: bytes = BODY) -> dict[str, str]:
    now = int(time.time())
    return {"webhook-id": message, "webhook-timestamp": str(now), "webhook-signature": sign([KEY], message, now, body)}


def test_receivers_write_down_what_came(receivers: str, tmp_path: Path) -> None:
    """Which event for whom, its body, whether it was signed, and what they said, after how long."""
    before = time.time()
    with httpx.Client(base_url=receivers) as client:
        statuses = [
            client.post("/well/a", content=BODY, headers=headers("msg_here_7")).status_code,
            client.post("/500/b", content=BODY, headers=headers("msg_here_8")).status_code,
            client.post("/slow/c", content=b"other", headers=headers("msg_here_9")).status_code,
            client.post("/closes/d", content=BODY, headers=headers("msg_else_7")).status_code,
        ]
    assert [200, 500, 200, 200] == statuses
    arrivals = read_arrivals(tmp_path / "log")
    assert [(7, "a"), (8, "b"), (9, "c"), (0, "d")] == [one.pair for one in arrivals]
    assert [True, True, False, True] == [one.signed for one in arrivals]
    assert statuses == [one.status for one in arrivals]
    assert [DIGEST, DIGEST, hashlib.sha256(b"other").hexdigest(), DIGEST] == [one.digest for one in arrivals]
    assert arrivals[2].ended - arrivals[2].at >= 0.09
    assert all(before - 0.1 <= one.at <= one.ended <= time.time() + 0.1 for one in arrivals)


@pytest.mark.parametrize(
    ("mode", "name", "code", "answers"),
    [
        ("answers", "known.test", RCODE.NOERROR, 1),
        ("answers", "other.test", RCODE.NXDOMAIN, 0),
        ("fails", "known.test", RCODE.SERVFAIL, 0),
        ("silent", "known.test", None, 0),
    ],
)
async def test_the_name_server(mode: Mode, name: str, code: int | None, answers: int) -> None:
    """It answers, fails or says nothing, as it is told."""
    async with name_server("127.0.0.1", "known.test", "10.1.2.3", port=0) as server:
        server.mode = mode
        host, port = server.address
        async with await anyio.create_connected_udp_socket(host, port) as client:
            await client.send(DNSRecord.question(name).pack())
            with anyio.move_on_after(0.2 if code is None else 10) as waited:
                reply = DNSRecord.parse(await client.receive())
    assert (code is None) == waited.cancelled_caught
    if code is not None:
        assert (code, ["10.1.2.3"] * answers) == (reply.header.rcode, [str(record.rdata) for record in reply.rr])
