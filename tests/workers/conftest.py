"""Fixtures of the workers' tests."""

from collections.abc import AsyncIterator

import pytest

from testhide.processes import Core
from tests.workers.hooks import Hooks, open_hooks


@pytest.fixture
async def hooks(parts: Core) -> AsyncIterator[Hooks]:
    async with open_hooks(parts) as made:
        yield made
