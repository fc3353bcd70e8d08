"""Signatures, checked by the public packages that receivers use."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import standardwebhooks
import svix.webhooks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.core.signing import SigningKey, sign

Verifier = Callable[[str], Any]
VERIFIERS: list[Verifier] = [standardwebhooks.Webhook, svix.webhooks.Webhook]
REFUSED = (standardwebhooks.WebhookVerificationError, svix.webhooks.WebhookVerificationError)


def text_of(secret: bytes) -> str:
    return "whsec_" + base64.b64encode(secret).decode()


def headers_of(signature: str, timestamp: int) -> dict[str, str]:
    return {"webhook-id": "msg_a_1", "webhook-timestamp": str(timestamp), "webhook-signature": signature}


@pytest.mark.parametrize("verifier", VERIFIERS)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(min_size=24, max_size=64), st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_verified(verifier: Verifier, secret: bytes, payload: dict[str, str]) -> None:
    """Both public packages verify what is signed."""
    body, now = json.dumps(payload).encode(), int(time.time())
    signature = sign([SigningKey.from_text(text_of(secret))], "msg_a_1", now, body)
    verifier(text_of(secret)).verify(body.decode(), headers_of(signature, now))  # or it raises


@pytest.mark.fault(40)
@pytest.mark.parametrize("verifier", VERIFIERS)
def test_rotation(verifier: Verifier) -> None:
    """During a rotation, whoever has the old key and whoever has the new one both verify, and nobody else."""
    old, new, other = (bytes([n]) * 24 for n in range(3))
    now = int(time.time())
    headers = headers_of(sign([SigningKey(old), SigningKey(new)], "msg_a_1", now, b"{}"), now)
    for secret in (old, new):
        verifier(text_of(secret)).verify("{}", headers)
    with pytest.raises(REFUSED):
        verifier(text_of(other)).verify("{}", headers)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_tampered(verifier: Verifier) -> None:
    """Another body, id or time does not verify."""
    secret, now = b"k" * 32, int(time.time())
    headers = headers_of(sign([SigningKey(secret)], "msg_a_1", now, b"{}"), now)
    for body, changed in (("{ }", {}), ("{}", {"webhook-id": "msg_a_2"}), ("{}", {"webhook-timestamp": str(now - 1)})):
        with pytest.raises(REFUSED):
            verifier(text_of(secret)).verify(body, headers | changed)


def test_known_answer() -> None:
    """The example of the specification signs to the signature that it prints."""
    key = SigningKey.from_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == signature


@pytest.mark.parametrize("length", [24, 32, 64])
def test_length_allowed(length: int) -> None:
    """Keys hold 24 to 64 bytes."""
    assert b"k" * length == SigningKey.from_text(text_of(b"k" * length)).secret


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "whsec",
        text_of(b"k" * 23),
        text_of(b"k" * 65),
        text_of(b"k" * 24)[6:],
        "WHSEC_" + text_of(b"k" * 24)[6:],
        "whsk_" + text_of(b"k" * 24)[6:],
        text_of(b"k" * 25)[:-1],
        text_of(b"k" * 24) + "\n",
        " " + text_of(b"k" * 24),
        "whsec_" + "ä" * 32,
        "whsec_" + "_-" * 16,
    ],
)
def test_bad_key(text: str) -> None:
    """Anything else is refused, and the error does not repeat it."""
    with pytest.raises(ValueError, match='a key is "whsec_"') as caught:
        SigningKey.from_text(text)
    assert len(text) < 7 or text not in str(caught.value)


@pytest.mark.fault(68)
def test_repr() -> None:
    """A key does not show its secret."""
    key = SigningKey(b"canary" * 4)
    assert "SigningKey()" == repr(key) == str(key) == f"{key}"
