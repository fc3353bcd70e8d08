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

from worker.core.signing import Ed25519Key, SigningKey, make_key, read_key, shown, sign

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


def test_an_ed25519_signature_is_verified_with_the_public_half() -> None:
    """By the public package's scheme: `v1a,` and the signature of `id.timestamp.body` (RFC 8032)."""
    import nacl.exceptions
    import nacl.signing

    key = make_key("v1a")
    signature = sign([key], "msg_a_1", 1_700_000_000, b"{}")
    prefix, _, public = shown(key).partition("_")
    verifier = nacl.signing.VerifyKey(base64.b64decode(public))

    assert ("whpk", "v1a") == (prefix, signature.partition(",")[0])
    raw = base64.b64decode(signature.partition(",")[2])
    verifier.verify(b"msg_a_1.1700000000.{}", raw)  # or it raises
    with pytest.raises(nacl.exceptions.BadSignatureError):
        verifier.verify(b"msg_a_1.1700000000.[]", raw)


def test_the_first_signature_of_rfc_8032() -> None:
    """Section 7.1, test 1 has this secret and this public key."""
    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    alone, both = (read_key("whsk_" + base64.b64encode(text).decode()) for text in (secret, secret + public))

    assert isinstance(alone, Ed25519Key)
    assert isinstance(both, Ed25519Key)
    assert (public, public, secret) == (alone.public, both.public, both.secret)
    with pytest.raises(ValueError, match="whsk_"):
        read_key("whsk_" + base64.b64encode(secret + secret).decode())


@pytest.mark.parametrize("text", ["whsk_", "whsk_AAAA", "whpk_" + "A" * 43 + "=", "whsec_AAAA", "", "whsk_!"])
def test_what_is_no_key_is_refused(text: str) -> None:
    """In words that say what one looks like."""
    with pytest.raises(ValueError, match=r"a key is|an Ed25519 key is"):
        read_key(text)


@pytest.mark.fault(68)
def test_no_key_shows_itself() -> None:
    """In its repr, as a traceback's locals would show it."""
    for key in (SigningKey(b"canary" * 4), Ed25519Key(b"canary" * 5 + b"--")):
        assert "canary" not in repr(key) + str(key)
