"""Histories that hypothesis makes up, against real processes: `lifecycle` plays them, `rules` judges the log."""

import os
from concurrent.futures import ThreadPoolExecutor

from hypothesis import HealthCheck, Phase, given, settings

from tests.e2e.lifecycle import Company, play
from tests.e2e.steps import Step, histories
from tests.support.server import Server

EXAMPLES = int(os.environ.get("TESTHIDE_LIFECYCLE_EXAMPLES", "5"))
STEPS = int(os.environ.get("TESTHIDE_LIFECYCLE_STEPS", "40"))


def test_whatever_happens_builds_end_once_and_in_order(server: Server) -> None:
    with ThreadPoolExecutor(64) as threads:
        company = Company.of(server, threads)

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        )
        @given(steps=histories(STEPS))
        def run(steps: list[Step]) -> None:
            play(company, steps)

        run()
    assert company.seen["build.requeued"], "the histories are too tame"
    assert company.seen["build.finished"] > 3 * EXAMPLES
    assert company.seen["answers as of then"] > EXAMPLES
