"""Sealed keys: what they are bound to, what cannot be opened, and that nothing secret is said."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.sealing import NONCE_BYTES, CannotUnsealError, KeyRing, new_line

NEW, OLD = new_line("2026-11"), new_line("2026-05")
RING = KeyRing.parse(f"# the newest first\n{NEW}\n\n{OLD}\n")


@given(st.binary(min_size=24, max_size=64), st.integers(1, 2**63 - 1), st.sampled_from(["v1", "v1a"]))
def test_what_is_sealed_can_be_unsealed(secret: bytes, endpoint_id: int, scheme: str) -> None:
    """By the same ring, for the same endpoint and scheme; twice sealed, it looks different, and never like the secret."""
    sealed, name = RING.seal(secret, endpoint_id, scheme)
    again, _ = RING.seal(secret, endpoint_id, scheme)

    assert ("2026-11", secret) == (name, RING.unseal(sealed, name, endpoint_id, scheme))
    assert sealed != again
    assert secret not in sealed


@pytest.mark.fault(40)
@given(st.integers(0, NONCE_BYTES + 32 + 15), st.integers(1, 255))
def test_what_was_changed_cannot_be_unsealed(position: int, flip: int) -> None:
    """Not one bit of nonce, ciphertext or tag may differ."""
    sealed, name = RING.seal(b"s" * 32, 7, "v1")
    changed = bytearray(sealed)
    changed[position] ^= flip

    with pytest.raises(CannotUnsealError):
        RING.unseal(bytes(changed), name, 7, "v1")


@pytest.mark.fault(40)
@pytest.mark.parametrize(("endpoint_id", "scheme"), [(8, "v1"), (7, "v1a")])
def test_a_sealed_key_is_bound_to_its_endpoint(endpoint_id: int, scheme: str) -> None:
    """Who may write to the table cannot move a key to an endpoint of his own."""
    sealed, name = RING.seal(b"s" * 32, 7, "v1")

    with pytest.raises(CannotUnsealError, match="changed or moved"):
        RING.unseal(sealed, name, endpoint_id, scheme)


@pytest.mark.parametrize("stored", [b"", b"s" * 16, b"s" * 40])
def test_what_was_never_sealed_is_no_crash(stored: bytes) -> None:
    """Too short, or not ours."""
    with pytest.raises(CannotUnsealError):
        RING.unseal(stored, "2026-11", 7, "v1")


def test_older_keys_unseal_and_do_not_seal() -> None:
    """Those behind the first are there until everything is sealed anew; one that is missing is named."""
    sealed, name = KeyRing.parse(OLD).seal(b"s" * 32, 7, "v1")

    assert ("2026-05", b"s" * 32) == (name, RING.unseal(sealed, name, 7, "v1"))
    with pytest.raises(CannotUnsealError, match="'2026-05', which is not in the key file"):
        KeyRing.parse(NEW).unseal(sealed, name, 7, "v1")


def test_another_key_of_the_same_name_is_told_apart() -> None:
    """A key file that was made anew under an old name opens nothing."""
    sealed, name = KeyRing.parse(new_line("2026-11")).seal(b"s" * 32, 7, "v1")

    with pytest.raises(CannotUnsealError, match="another key has that name"):
        RING.unseal(sealed, name, 7, "v1")


def test_without_a_ring_keys_stay_as_they_are() -> None:
    """Nothing is sealed, and nothing that is sealed can be read."""
    none = KeyRing()

    assert (b"s", None, None) == (*none.seal(b"s", 7, "v1"), none.sealing)
    assert b"s" == none.unseal(b"s", None, 7, "v1")
    assert not none
    with pytest.raises(CannotUnsealError):
        none.unseal(b"s" * 72, "2026-11", 7, "v1")


@pytest.mark.fault(68)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        f"x:{base64.b64encode(b'canary' * 5).decode()}",  # 30 bytes
        "canary",
        f"a b:{'A' * 43}=",
        f"{NEW}\n{NEW}",
        f"-x:{'A' * 43}=",
    ],
)
def test_a_bad_key_file_is_refused_without_quoting_it(text: str) -> None:
    """The message names the line by its number: what stands there may be a key."""
    with pytest.raises(ValueError, match=r"^(line \d|it holds no key)") as caught:
        KeyRing.parse(text)

    assert "canary" not in str(caught.value)
    assert "A" * 43 not in str(caught.value)


@pytest.mark.fault(68)
def test_a_ring_shows_nothing() -> None:
    """Neither its repr nor its str."""
    assert NEW.partition(":")[2] not in repr(RING) + str(RING)
    assert repr(base64.b64decode(NEW.partition(":")[2])) not in repr(RING)


def test_a_name_is_what_can_be_stored_beside_a_key() -> None:
    """Letters, digits, dots, dashes, underscores."""
    with pytest.raises(ValueError, match="is no name"):
        new_line("a key")
