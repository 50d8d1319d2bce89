"""Fixtures of the workers' tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from commands.projects import CreateProject
from testhide.processes import Core
from tests.workers.hooks import Hooks, open_hooks
from tests.workers.yard import ANN, Yard


@pytest.fixture
async def hooks(parts: Core) -> AsyncIterator[Hooks]:
    async with open_hooks(parts) as made:
        yield made


@pytest.fixture
async def yard(parts: Core, tmp_path: Path) -> Yard:
    yard = Yard(parts, tmp_path)
    await yard.handler.execute(CreateProject(1, "Web", 1, (("web", "slug-1"),), b""), ANN)
    for job_id in (5, 6):
        await yard.make_job(job_id)
    return yard
