import os
import time

from shop.payment import charge


def test_receipt_names_the_amount():
    assert charge(135, seed="a quiet day") == "receipt-135"


def test_charges_over_the_network():
    """Flaky: whether the provider answers in time depends on the day, here on the build."""
    assert charge(135, seed=f"provider, build {os.environ.get('TESTHIDE_BUILD_ID', '2')}").startswith("receipt-")


def test_settles_slowly():
    time.sleep(0.6)
    print("settled")
