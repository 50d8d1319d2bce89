"""Options with which a test runner ends after a failure: quarantine excuses no exit code then."""

import pytest

from commands.fail_fast import find_fail_fast
from domain.builds import BuildFinished
from domain.jobs import Configuration
from tests.commands.test_excused_exit_codes import ended, report


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("npx jest --bail", "--bail"),
        ("sh jest.sh --bail=2 -i", "--bail"),
        ("npx vitest run --bail 1", "--bail"),
        ("npx mocha -b test", "-b"),
        ("python -m unittest --failfast", "--failfast"),
        ("python -m xmlrunner discover -s t -f", "-f"),
        ("python -m xmlrunner discover \\\n  -vf", "-vf"),
        ("go test -failfast ./...", "-failfast"),
        ("./gradlew test --fail-fast", "--fail-fast"),
        ("mvn test -Dsurefire.skipAfterFailureCount=1", "skipAfterFailureCount"),
        ("dotnet test -- xUnit.StopOnFail=true", "StopOnFail"),
        ("./tests --gtest_fail_fast", "--gtest_fail_fast"),
        ("pytest -qx tests", "-qx"),
        ("pytest --maxfail=3", "--maxfail"),
        ("pytest --exitfirst", "--exitfirst"),
        ("npx playwright test --max-failures=1", "--max-failures"),
        ("vendor/bin/phpunit --stop-on-failure", "--stop-on-failure"),
        ("echo '{\"bail\": true}' > jest.config.json", 'bail": true'),
        ("npx jest", None),
        ("npx jest --bail=0", None),
        ("npx mocha --no-bail", None),
        ("cargo test --no-fail-fast", None),
        ("pytest --maxfail 0 -k x -n 4", None),
        ("pytest -p xdist; rm -f x; tar -xf a.tar", None),
        ("python -m unittest && rm -f junit.xml", None),
        ("bail out", None),
    ],
)
def test_options_that_end_a_run_at_a_failure(command: str, option: str | None) -> None:
    assert find_fail_fast(Configuration(command=command)) == option
    assert find_fail_fast(Configuration(setup=[command])) == option
    assert find_fail_fast(Configuration(env={"OPTIONS": command})) == option


def test_with_such_an_option_quarantine_excuses_no_exit_code() -> None:
    def end(command: str) -> BuildFinished:
        return ended(1, report("a", 1), codes="1", command=command)

    assert end("npx jest").status == "passed"
    failed = end("npx jest --bail")
    assert (failed.status, failed.reason) == ("failed", "command_failed")
    assert failed.detail == (
        "The ignored failures do not account for the exit code of the command."
        " With --bail other tests may not run after a failure: leave it out."
    )
