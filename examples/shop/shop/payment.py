"""Payments by a provider that does not always answer in time."""

import random


class Timeout(Exception):
    pass


def charge(cents: int, seed: str) -> str:
    """A receipt number. The seed stands for the network's mood; about a third of the calls time out."""
    mood = random.Random(seed).random()
    if mood < 1 / 3:
        raise Timeout(f"the provider did not answer within {2000 + int(mood * 1000)} ms")
    return f"receipt-{cents}"
