"""Flakiness of results across builds, over HTTP."""

import uuid

from tests.api.test_tests import FAILS, PASSES, report_of, results_of
from tests.support.builders import finish, given_build, given_job, upload
from tests.support.server import Server


def flaky_of(server: Server, build: int) -> tuple[list[bool], int, list[int], int]:
    """What results, the report of a build, each file of it and the build say of flakiness."""
    report = report_of(server, build)
    return (
        [result["flaky"] for result in results_of(server, build)["results"]],
        report["flaky"],
        [file["flaky"] for file in report["reports"]],
        server.admin.fetch(f"/builds/{build}")["flaky"],
    )


def test_what_failed_and_passed_on_one_commit_is_flaky(server: Server, job: int) -> None:
    commit = uuid.uuid4().hex
    first, of_another_commit, second, third = (
        given_build(server, job, commit_sha=sha) for sha in (commit, uuid.uuid4().hex, commit.upper(), commit)
    )
    for build, content in ((first, PASSES), (of_another_commit, FAILS), (second, FAILS), (third, FAILS)):
        upload(server.admin, build, content).then(201)
        finish(server, build)
    assert flaky_of(server, first) == ([False], 0, [0], 0)
    assert flaky_of(server, of_another_commit) == ([False], 0, [0], 0)
    assert flaky_of(server, second) == flaky_of(server, third) == ([True], 1, [1], 1)


def test_what_two_jobs_make_of_a_commit_is_not_flaky(server: Server, project: int) -> None:
    commit = uuid.uuid4().hex
    for content in (PASSES, FAILS):
        build = given_build(server, given_job(server, project), commit_sha=commit)
        upload(server.admin, build, content).then(201)
        finish(server, build)
        assert flaky_of(server, build) == ([False], 0, [0], 0)


def test_a_matrix_that_always_fails_in_one_part_is_not_flaky(server: Server, job: int) -> None:
    """Its parts send their reports under one path, in any order."""
    commit = uuid.uuid4().hex
    for contents in ((PASSES, FAILS), (FAILS, PASSES), (PASSES, FAILS)):
        build = given_build(server, job, commit_sha=commit)
        for content in contents:
            upload(server.admin, build, content).then(201)
        finish(server, build)
        assert flaky_of(server, build) == ([False, False], 0, [0, 0], 0)


def test_builds_that_still_run_are_compared_with_nothing(server: Server, job: int) -> None:
    commit = uuid.uuid4().hex
    first, second = (given_build(server, job, commit_sha=commit) for _ in range(2))
    upload(server.admin, first, PASSES).then(201)
    upload(server.admin, second, FAILS).then(201)
    assert flaky_of(server, second) == ([False], 0, [0], 0)
