"""What the server says of itself holds: requests made from its own description are never answered with 5xx, and answers
have the described status, media type and form. `python -m bench.long.schemathesis` does the same for longer."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from testhide.engines import Engines
from tests.support.server import server_on_new_database

from .fuzzing import ENDLESS, OUTGOING, PROCESSES, Fuzzed, a_small_world, fuzz
from .test_served import own_operations

EXAMPLES = 5
"""Requests to each operation, and as many more to one that has only refused them."""
SEED = 20_260_520


@pytest.fixture(scope="module")
def fuzzed(engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    """On a server of its own, since made-up ids are small numbers: they may well be someone's."""
    with server_on_new_database(
        engines, tmp_path_factory.mktemp("fuzzed"), *PROCESSES, outgoing_allow=OUTGOING
    ) as server:
        yield a_small_world(server.admin)


def test_described_operations_hold(fuzzed: Fuzzed, described: dict[str, Any]) -> None:
    tried: dict[str, Counter[int]] = {}
    for operation in fuzzed.operations():
        answers = fuzz(fuzzed, operation, EXAMPLES, SEED)
        if not reached(answers):
            answers += fuzz(fuzzed, operation, EXAMPLES, SEED + 1)
        tried[operation.label] = answers
        assert fuzzed.session.get("/api/v3/me").status_code == 200, f"{operation.label} ended the session"
    everything = {f"{method} {path}" for method, path in own_operations(described)}
    assert tried.keys() | ENDLESS.keys() == everything
    # Most of it is reached, and not only refused at the door.
    found = [label for label, answers in tried.items() if reached(answers)]
    assert len(found) > len(tried) * 2 / 3, f"only {found}"


def reached(answers: Counter[int]) -> bool:
    return any(status < 300 for status in answers)
