"""What is derived from the master secret."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.crypto.secrets import SecretMismatch, Secrets, decrypt, encrypt, new_token, token_hash

SECRETS, OTHERS = Secrets(b"s" * 32), Secrets(b"t" * 32)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_sealed_values_are_unsealed(value: str) -> None:
    sealed = SECRETS.seal(value)
    assert SECRETS.unseal(sealed) == value
    assert sealed != SECRETS.seal(value), "the same value twice does not show"


def test_nothing_opens_with_another_master_secret() -> None:
    key, wrapped = SECRETS.new_data_key("build-1")
    assert SECRETS.unwrap("build-1", wrapped) == key
    for opens in (
        lambda: OTHERS.unseal(SECRETS.seal("value")),
        lambda: OTHERS.unwrap("build-1", wrapped),
        lambda: SECRETS.unwrap("build-2", wrapped),
        lambda: SECRETS.unseal(wrapped),
    ):
        with pytest.raises(SecretMismatch, match="TESTHIDE_SECRET_KEY"):
            opens()


def test_a_key_opens_with_its_parents_only() -> None:
    parent, wrapped_parent = SECRETS.new_data_key("project-1")
    key, wrapped = SECRETS.new_data_key("project-1/job-5", parent)
    assert SECRETS.unwrap("project-1/job-5", wrapped, parent) == key
    sibling, _ = SECRETS.new_data_key("project-2")
    for above in (None, key, sibling):
        with pytest.raises(SecretMismatch):
            SECRETS.unwrap("project-1/job-5", wrapped, above)
    with pytest.raises(SecretMismatch):
        SECRETS.unwrap("project-1", wrapped_parent, key)


@given(st.binary(), st.binary(), st.integers(0), st.integers(0, 7))
def test_a_changed_ciphertext_does_not_decrypt(data: bytes, context: bytes, index: int, bit: int) -> None:
    key = b"k" * 32
    sealed = bytearray(encrypt(key, data, context))
    assert decrypt(key, bytes(sealed), context) == data
    sealed[index % len(sealed)] ^= 1 << bit
    with pytest.raises(SecretMismatch):
        decrypt(key, bytes(sealed), context)


@pytest.mark.parametrize("length", [0, 11, 12, 27])
def test_too_short_to_be_sealed(length: int) -> None:
    with pytest.raises(SecretMismatch):
        SECRETS.unseal(b"x" * length)


def test_a_claim_hides_its_value_and_does_not_mind_the_case() -> None:
    claim = SECRETS.claim("email", "Ann@Example.com")
    assert claim == SECRETS.claim("email", "ann@example.COM")
    assert claim.startswith("email-")
    assert "ann" not in claim
    others = (
        SECRETS.claim("email", "bob@example.com"),
        SECRETS.claim("node", "ann@example.com"),
        OTHERS.claim("email", "ann@example.com"),
    )
    assert claim not in others


def test_every_purpose_has_a_key_of_its_own() -> None:
    assert len({SECRETS.session_key("1"), SECRETS.session_key("2"), OTHERS.session_key("1")}) == 3
    assert len(SECRETS.session_key("1")) == 32


def test_the_master_secret_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Secrets(b"short")


def test_tokens_are_stored_as_hashes() -> None:
    one, two = new_token("agt_"), new_token("agt_")
    assert one.startswith("agt_")
    assert len(one) == 4 + 32
    assert one != two
    assert token_hash(one) != token_hash(two)
    assert one.encode() not in token_hash(one)
