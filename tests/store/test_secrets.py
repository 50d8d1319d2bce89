"""What is derived from root keys."""

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from store.clock import utcnow
from store.crypto.secrets import MARK, RootKey, SecretMismatch, Secrets, decrypt, derive, encrypt, new_token, token_hash

OLDEST, NEWER, NEWEST = (RootKey(id=number, key=bytes([number]) * 32) for number in (0, 1, 2))
SECRETS, OTHERS = Secrets([NEWER]), Secrets([RootKey(id=1, key=b"t" * 32)])


def are_equal(one: AESGCM, other: AESGCM) -> bool:
    return decrypt(one, encrypt(other, b"value", b""), b"") == b"value"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_sealed_values_are_unsealed(value: str) -> None:
    sealed = SECRETS.seal(value)
    assert SECRETS.unseal(sealed) == value
    assert sealed != SECRETS.seal(value), "the same value twice does not show"


def test_nothing_opens_with_another_master_secret() -> None:
    key, wrapped = SECRETS.new_data_key("build-1")
    assert are_equal(SECRETS.unwrap("build-1", wrapped), key)
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
    assert are_equal(SECRETS.unwrap("project-1/job-5", wrapped, parent), key)
    sibling, _ = SECRETS.new_data_key("project-2")
    for above in (None, key, sibling):
        with pytest.raises(SecretMismatch):
            SECRETS.unwrap("project-1/job-5", wrapped, above)
    with pytest.raises(SecretMismatch):
        SECRETS.unwrap("project-1", wrapped_parent, key)


@given(st.binary(), st.binary(), st.integers(0), st.integers(0, 7))
def test_a_changed_ciphertext_does_not_decrypt(data: bytes, context: bytes, index: int, bit: int) -> None:
    key = AESGCM(b"k" * 32)
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
    assert len({SECRETS.session_key("1")[1], SECRETS.session_key("2")[1], OTHERS.session_key("1")[1]}) == 3
    assert len(SECRETS.session_key("1")[1]) == 32


def test_a_root_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Secrets.without_ring(b"short")


@given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from([[OLDEST], [NEWER], [OLDEST, NEWER]]))
def test_a_value_is_moved_to_the_newest_root_key_and_becomes_the_same_by_every_way(
    value: str, roots: list[RootKey]
) -> None:
    sealed = Secrets(roots).seal(value)
    after = Secrets([OLDEST, NEWER, NEWEST])
    by_steps = after.reseal(Secrets([OLDEST, NEWER]).reseal(sealed))
    assert after.reseal(sealed) == by_steps == after.reseal(by_steps)
    assert Secrets([NEWEST]).unseal(by_steps) == after.unseal(sealed) == value
    with pytest.raises(SecretMismatch):
        Secrets([OLDEST, NEWER]).unseal(by_steps)


def test_topmost_data_keys_and_responses_are_moved_too() -> None:
    before, after, newest = Secrets([OLDEST]), Secrets([OLDEST, NEWEST]), Secrets([NEWEST])
    key, wrapped = before.new_data_key("user-1")
    assert are_equal(newest.unwrap("user-1", after.rewrap("user-1", wrapped)), key)
    moved = after.reseal_response(b"scope", before.seal_response(b"scope", b"201"))
    assert newest.unseal_response(b"scope", moved) == b"201"
    with pytest.raises(SecretMismatch):
        after.rewrap("user-2", wrapped)


def test_what_a_release_without_root_keys_sealed_may_begin_like_what_has_one() -> None:
    nonce = MARK + bytes(8)
    sealed = nonce + AESGCM(derive(OLDEST.key, "sealed values")).encrypt(nonce, b"value", b"sealed")
    secrets = Secrets([OLDEST, NEWEST])
    assert secrets.unseal(sealed) == Secrets([NEWEST]).unseal(secrets.reseal(sealed)) == "value"
    assert Secrets([OLDEST]).unseal(sealed) == "value"


def test_a_root_key_that_is_not_in_use_opens_and_does_not_seal() -> None:
    announced = Secrets([NEWER, replace(NEWEST, is_in_use=False)])
    assert announced.root_of(announced.seal("value")) == 1
    assert announced.unseal(Secrets([NEWER, NEWEST]).seal("value")) == "value"


def test_claims_keep_their_names() -> None:
    assert Secrets([NEWER, NEWEST]).claim("email", "ann@example.com") == SECRETS.claim("email", "ann@example.com")


def test_what_a_retired_root_key_signed_is_accepted_for_as_long_as_it_is_valid() -> None:
    key_id, key = SECRETS.session_key("9")
    link, signed = SECRETS.link_token(7, "link"), SECRETS.sign("sso", "text")
    for age, session, is_link, is_signed in (
        (timedelta(minutes=1), key, True, True),
        (timedelta(hours=2), key, True, False),
        (timedelta(days=1), None, True, False),
        (timedelta(days=8), None, False, False),
    ):
        secrets = Secrets([replace(NEWER, retired_at=utcnow() - age), NEWEST])
        assert secrets.find_session_key(key_id, timedelta(hours=8)) == session
        assert (secrets.read_link_token(link) is not None) == is_link
        assert (secrets.read_signed("sso", signed) is not None) == is_signed
        assert secrets.session_key("9")[0] == "2.9"
        assert secrets.read_link_token(secrets.link_token(7, "link")) == (7, "link")


@pytest.mark.parametrize("root", [replace(NEWER, is_leaked=True), OLDEST], ids=["leaked", "secret key of the past"])
def test_what_a_leaked_root_key_signed_is_not_accepted(root: RootKey) -> None:
    before, after = Secrets([root]), Secrets([replace(root, retired_at=utcnow()), NEWEST])
    key_id, _ = before.session_key("9")
    assert before.find_session_key(key_id, timedelta(hours=8)) is not None
    assert after.find_session_key(key_id, timedelta(hours=8)) is None
    assert after.read_link_token(before.link_token(7, "link")) is None
    assert after.read_signed("sso", before.sign("sso", "text")) is None


@pytest.mark.parametrize("key_id", [None, "", ".9", "01.9", "3.9", "x.9", "\u0661.9", "9"])
def test_no_other_session_key_has_a_key(key_id: str | None) -> None:
    assert SECRETS.find_session_key(key_id, timedelta(hours=8)) is None


def test_a_release_without_root_keys_named_its_session_keys_by_the_week_or_not_at_all() -> None:
    secrets = Secrets([OLDEST])
    assert secrets.session_key("9") == ("9", secrets.find_session_key("9", timedelta(hours=8)))
    assert secrets.find_session_key(None, timedelta(hours=8)) == derive(OLDEST.key, "sessions")


def test_the_mac_of_a_row_is_by_a_root_key_of_its_time() -> None:
    secrets = Secrets([replace(NEWER, last_position=10), NEWEST])
    assert secrets.rows_keys(10) == [secrets.rows_key, SECRETS.rows_key]
    assert secrets.rows_keys(11) == [secrets.rows_key]


def test_tokens_are_stored_as_hashes() -> None:
    one, two = new_token("agt_"), new_token("agt_")
    assert one.startswith("agt_")
    assert len(one) == 4 + 32
    assert one != two
    assert token_hash(one) != token_hash(two)
    assert one.encode() not in token_hash(one)
