"""Searches and analyses of tests show members nothing of other projects."""

import uuid
from typing import Any

from tests.support.builders import finish, given_build, given_job, given_project, upload
from tests.support.semantic_index import FailureIndexer
from tests.support.server import Server


def test_no_read_shows_a_text_of_another_project(server: Server, failure_indexer: FailureIndexer) -> None:
    word = f"planted{uuid.uuid4().hex}"
    report = f'<testsuite name="{word}"><testcase name="{word}"><failure message="{word} boom"/></testcase></testsuite>'
    theirs, mine = given_project(server, name=word, description=word), given_project(server)
    jobs = given_job(server, theirs, name=word), given_job(server, mine)
    for job in jobs:
        build = given_build(server, job, branch=word if job == jobs[0] else "main")
        text = report if job == jobs[0] else report.replace(word, "mine")
        upload(server.admin, build, text.encode()).then(201)
        finish(server, build, "failed")
    failure_indexer.index(server)
    server.wait_until_projected()
    (case,) = server.admin.fetch("/test-cases", project_id=theirs)["results"]
    member = server.make_user("developer", {mine: "admin"})
    of_project: list[tuple[str, dict[str, Any]]] = [
        ("/ai/search", {"q": word}),
        ("/search", {"q": word}),
        ("/ai/tests/health", {"min_runs": 1}),
        ("/ai/emerging/latest", {}),
        ("/ai/emerging/history", {}),
        ("/test-cases", {"search": word}),
    ]
    for path, query in of_project:
        assert word in str(server.admin.fetch(path, **query, project_id=theirs)) or "emerging" in path, path
        found = member.get(f"/api/v3{path}", params=query | {"project_id": mine})
        assert found.status_code == 200, path
        assert word not in found.text.replace(f'"query":"{word}"', ""), path
        assert member.get(f"/api/v3{path}", params=query | {"project_id": theirs}).status_code == 404, path
    assert member.fetch("/search", q=word)["results"] == []
    of_case = f"/test-cases/{case['id']}", f"/ai/tests/{case['id']}/health"
    for path in (*of_case, f"/jobs/{jobs[0]}/trend", f"/projects/{theirs}/trend", f"/test-cases?job_id={jobs[0]}"):
        assert member.get(f"/api/v3{path}").status_code == 404, path
    history = {"project_id": mine, "test_id": case["id"]}
    assert member.get("/api/v3/ai/emerging/history", params=history).status_code == 404
    member.when("POST", f"/jobs/{jobs[0]}/split", json={"shards": 1, "tests": [word]}).then(404)
    split = member.when("POST", f"/jobs/{jobs[1]}/split", json={"shards": 1, "tests": [word]}).then(200)
    assert split["unknown"] == [word], "its duration in the other project is not known here"
