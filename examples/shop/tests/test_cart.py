import sys

import pytest

from shop.cart import Cart


@pytest.fixture
def cart():
    return Cart({"apple": 30, "pear": 45, "crème brûlée": 390})


def test_is_empty_at_first(cart):
    assert cart.total() == 0


def test_adds_up(cart):
    cart.add("apple", 3)
    cart.add("pear")
    assert cart.total() == 135


@pytest.mark.parametrize(("name", "count", "total"), [("apple", 1, 30), ("pear", 2, 90), ("crème brûlée", 3, 1170)])
def test_counts(cart, name, count, total):
    cart.add(name, count)
    assert cart.total() == total


class TestRefusals:
    def test_unknown_product(self, cart):
        with pytest.raises(KeyError, match="no such product"):
            cart.add("melon")

    @pytest.mark.parametrize("count", [0, -1])
    def test_count_must_be_positive(self, cart, count):
        with pytest.raises(ValueError, match="positive"):
            cart.add("apple", count)


def test_discount_is_rounded_half_up(cart):
    cart.add("pear")
    assert cart.discounted(50) == 23


@pytest.mark.skipif(sys.platform != "win32", reason="prices on the Windows tills only")
def test_till_prices():
    raise AssertionError("runs on Windows only")
