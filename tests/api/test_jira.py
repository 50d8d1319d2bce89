"""Jira integrations over HTTP."""

from typing import Any

import pytest

from tests.support.server import Server

AT = "/api/v3/jira"
TOKEN = "ATATT-0123456789-planted"
JIRA = {
    "name": "ACME Jira",
    "host": "https://acme.atlassian.net/",
    "email": "user@example.com",
    "api_token": TOKEN,
    "project_key": "BACK",
}


def test_create_and_show(server: Server, project: int) -> None:
    created = server.admin.post(AT, json=JIRA | {"testhide_project_id": project}).then(201)
    shown = {"name": "ACME Jira", "host": "https://acme.atlassian.net", "deployment": "cloud", "issue_type": "Bug"}
    assert created.items() >= (shown | {"auto_create": False, "testhide_project_id": project}).items()
    assert (created["last_error"], created["last_error_at"]) == (None, None)
    assert server.admin.get(f"{AT}/{created['id']}").then(200) == created
    assert TOKEN not in str(created)
    at_company = server.admin.post(AT, json=JIRA | {"host": "jira.acme.com", "testhide_project_id": project}).then(201)
    assert (at_company["host"], at_company["deployment"]) == ("https://jira.acme.com", "data_center")


def test_list(server: Server, project: int) -> None:
    of_project = server.admin.post(AT, json=JIRA | {"testhide_project_id": project}).then(201)
    of_all = server.admin.post(AT, json=JIRA).then(201)
    member = server.make_user("developer", {project: "admin"})
    assert member.get(AT).then(200) == [of_project]
    assert of_all in server.admin.get(AT, params={"after": of_project["id"]}).then(200)
    assert member.get(f"{AT}/{of_all['id']}").status_code == 404


def test_update_and_delete(server: Server, project: int) -> None:
    path = f"{AT}/{server.admin.post(AT, json=JIRA | {'testhide_project_id': project}).then(201)['id']}"
    changes = {"project_key": "QA", "auto_create": True, "api_token": "ATATT-new", "issue_type": "Task"}
    changed = server.admin.put(path, json=changes).then(200)
    assert changed.items() >= {"project_key": "QA", "auto_create": True, "issue_type": "Task"}.items()
    assert server.admin.put(path, json=changed).then(200) == changed, "GET fits PUT"
    assert server.admin.delete(path).status_code == 204
    for answer in (server.admin.get(path), server.admin.put(path, json={}), server.admin.post(f"{path}/test")):
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"project_key": "back end"}, "project_key", "BACK"),
        ({"project_key": 'A" OR 1'}, "project_key", "BACK"),
        ({"api_token": "two words"}, "api_token", "space"),
        ({"api_token": ""}, "api_token", ""),
        ({"email": "a:b"}, "email", ""),
        ({"host": "https://127.0.0.1/"}, "host", "this machine"),
        ({"host": "http://jira.example.com"}, "host", "https://"),
        ({"host": "https://jira.example.com/?x"}, "host", "?"),
        ({"deployment": "server"}, "deployment", ""),
    ],
)
def test_fields_are_checked(server: Server, project: int, changes: dict[str, Any], field: str, message: str) -> None:
    answer = server.admin.post(AT, json=JIRA | {"testhide_project_id": project} | changes).then(422)
    error = answer["errors"][0]
    assert (error["field"], message in error["message"]) == (field, True), error
    assert TOKEN not in str(answer)
    if field not in ("host", "deployment"):
        path = f"{AT}/{server.admin.post(AT, json=JIRA | {'testhide_project_id': project}).then(201)['id']}"
        assert server.admin.put(path, json=changes).then(422)["errors"][0]["field"] == field


def test_a_test_says_what_is_wrong(server: Server, project: int) -> None:
    at_host = JIRA | {"host": "https://jira.invalid", "testhide_project_id": project}
    path = f"{AT}/{server.admin.post(AT, json=at_host).then(201)['id']}"
    tested = server.admin.post(f"{path}/test").then(200)
    assert tested["ok"] is False
    assert "jira.invalid gives no answer" in tested["error"]
