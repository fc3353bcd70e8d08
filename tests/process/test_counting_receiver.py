"""The receiver that most benchmarks count by: plain and TLS, on all of 127.0.0.0/8."""

import ssl
import sys

import anyio
import httpx
import pytest

from benchmarks.stage import CERTIFICATES, counting_receiver

pytestmark = pytest.mark.skipif(sys.implementation.name == "pypy", reason="it runs on uvloop")


async def test_it_counts_what_it_answers() -> None:
    """Both ports, whatever the address."""
    trusted = ssl.create_default_context(cafile=CERTIFICATES / "ca.pem")
    with counting_receiver() as receiver:
        async with httpx.AsyncClient(verify=trusted, trust_env=False) as client:
            for url in (f"http://127.3.2.1:{receiver.port}/a", f"https://localhost:{receiver.tls_port}/b"):
                answer = await client.post(url, content=b"{}")
                assert 200 == answer.status_code
        assert 2 == await anyio.to_thread.run_sync(receiver.count)
