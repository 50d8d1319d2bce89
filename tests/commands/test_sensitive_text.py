"""What a language model must not get is masked, and what explains a failure is not."""

import hypothesis
import pytest
from hypothesis import strategies as st

from domain.assistant.sensitive_text import mask_secrets, remove_hidden

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail ann.lee+ci@mail.example.com now", "mail [email] now"),
        ("cannot connect to 10.20.30.40:5432", "cannot connect to [ip]:5432"),
        ("fe80::1ff:fe23:4567:890a is down", "[ip] is down"),
        ("password=hunter22 user=ann", "password=[secret] user=ann"),
        ("DB_PASSWORD: 'two words'", "DB_PASSWORD: [secret]"),
        ('{"api_key": "abc123", "n": 1}', '{"api_key": [secret], "n": 1}'),
        ("Authorization: Bearer abc.def.ghi", "Authorization: Bearer [secret]"),
        ("postgresql://app:hush@db.example.com/x", "postgresql://[secret]@db.example.com/x"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ012345", "[secret]"),
        ("AWS AKIAIOSFODNN7EXAMPLE", "AWS [secret]"),
        (f"token {JWT}!", "token [secret]!"),
        (f"id-{JWT} and shop.{JWT[:40]}", "id-[secret] and shop.[secret]"),
        (f"a.b {'eyJaaaaaaaa-' * 3}.{'b' * 8}", "a.b [secret]"),
        (f"key:\n{KEY}\nend", "key:\n[secret]\nend"),
        ("cut -----BEGIN PRIVATE KEY-----\nMIIEow", "cut [secret]"),
        ("x Zk3Jq9vR7xTn2LwP5yHd8sBf4GcMa6Ue y", "x [secret] y"),
        ("/home/ann/shop/cart.py and C:\\Users\\ann\\x", "/home/[user]/shop/cart.py and C:\\Users\\[user]\\x"),
    ],
)
def test_masked(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "AssertionError: assert 9 == 10 in tests/test_cart.py::test_adds_up[1.2-x]",
        "badc0de0badc0de0badc0de0badc0de0badc0de0",
        "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "Connection refused: 127.0.0.1:5432, [::1]:80",
        "at std::vector<int>::at (cart.cpp:12) 10:00:05 12:34:56.789",
        "com.example.shop.PaymentServiceIntegrationTest.rejectsExpiredCardsOfAllBrands",
        "eyJaaaaaaaa-eyJaaaaaaaa- eyJshort.b keyJaaaaaaaa.bbbbbbbb",
        "version 1.2.3, 3.14.2-rc1, password=None, token: true",
        "/home/runner/work and ./src/a.py",
        "test_the_total_of_a_cart_with_2_items_and_3_vouchers_is_right",
    ],
)
def test_not_masked(text: str) -> None:
    assert mask_secrets(text) == text


@hypothesis.given(st.text(max_size=300))
def test_masking_twice_changes_nothing(text: str) -> None:
    assert mask_secrets(mask_secrets(text)) == mask_secrets(text)


def test_hidden_characters_are_removed() -> None:
    assert remove_hidden("a\u200bb\x1b[1m\u202e\U000e0041\tc\nd") == "ab[1m\tc\nd"
