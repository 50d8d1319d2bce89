"""Requests say what is wrong with them, and nothing that they ask for is ignored."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import pytest
from msgspec import Meta

from api.builds import NewBuild
from api.http.bodies import refuse_doubled
from api.http.query_parameters import MAX_PARAMETERS
from commands.validation import (
    MAX_ERRORS,
    alternatives,
    convert_body,
    describe,
    find_wrong,
    struct_members,
    struct_of,
)
from domain.core.errors import Invalid
from tests.support.description import make_app
from tests.support.server import Server


def errors(server: Server, path: str, body: Any) -> dict[str, str]:
    answer = server.admin.post(f"/api/v3{path}", json=body)
    assert answer.status_code == 422, answer.text
    return {error["field"]: error["message"] for error in answer.json()["errors"]}


def test_an_unknown_field_is_named_with_the_nearest_known_one(server: Server, project: int) -> None:
    body = {"name": "Nightly", "project_id": project, "max_paralel": 2}
    assert errors(server, "/jobs", body) == {"max_paralel": "is not known here; did you mean max_parallel?"}


def test_scopes_that_do_not_exist_make_no_token_with_all_rights(server: Server) -> None:
    assert errors(server, "/api-tokens", {"name": "reader", "scopes": []}).keys() == {"scopes"}
    before = server.admin.get("/api/v3/api-tokens").json()
    found = errors(server, "/api-tokens", {"name": "reader", "scope": ["read"], "scopes": ["read", "everything"]})
    assert found.keys() == {"scope", "scopes[1]"}
    assert found["scope"] == "is not known here; did you mean scopes?"
    assert server.admin.get("/api/v3/api-tokens").json() == before


def test_all_wrong_fields_are_named_at_once_in_sentences(server: Server) -> None:
    assert errors(server, "/builds/start", {"job_id": "12", "priority": 11, "env": {"A": 1}, "jobid": 3}) == {
        "job_id": 'must be a whole number from 1 to 9007199254740992, not "12"',
        "priority": "must be a whole number from 1 to 10, not 11",
        "env.A": "must be a text of at most 65536 characters, not 1",
        "jobid": "is not known here; did you mean job_id?",
    }
    assert errors(server, "/builds/start", {"job_id": 1, "env": {"A=B": "x", "C": None}}) == {
        "env.A=B": 'must be a name like BUILD_TYPE, not "A=B"',
        "env.C": "must be a text of at most 65536 characters, not null",
    }


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        (
            "/jobs",
            {"name": "", "repository": "ftp://x", "pool_labels": {str(number): "" for number in range(101)}},
            {"name", "project_id", "repository", "pool_labels"},
        ),
        (
            "/builds/start",
            {"job_id": "1", "env": {"TESTHIDE_BRANCH": "x"}, "secrets": {"TESTHIDE_COMMIT": "x"}},
            {"job_id", "env.TESTHIDE_BRANCH", "secrets.TESTHIDE_COMMIT"},
        ),
        (
            "/pipeline-templates",
            {"name": 1, "setup": [], "env": {"1": "", "A": 3}, "artifacts": ["/etc/*", "["], "secrets": {"a b": "x"}},
            {"name", "env.A", "artifacts[0]", "artifacts[1]", "secrets.a b"},
        ),
        (
            "/known-issues",
            {"project_id": 1, "title": "", "classification": "infra", "pattern": "("},
            {"title", "pattern"},
        ),
        ("/webhooks", {"url": "ftp://x/y", "events": ["nope"], "secrett": "x"}, {"url", "events[0]", "secrett"}),
        ("/ms-teams", {"name": "", "webhook_url": "x"}, {"name", "webhook_url", "events", "project_id"}),
        (
            "/jobs/import",
            {
                "project_id": 1,
                "bundle": {
                    "export_version": "1",
                    "job": {"name": 5, "repository": "ftp://x", "timeout_minute": 1},
                    "configuration": {
                        "env": {"1": "", "2": ""},
                        "secrets": ["a b"],
                        "caches": [{"key": "{{", "paths": ["../x"]}],
                    },
                    "triggers": {
                        "branches": ["["],
                        "cron": [{"expression": "0 0 * * *", "timezone": "Nowhere"}],
                        "tags": 1,
                    },
                },
            },
            {
                *("bundle.job.name", "bundle.job.repository", "bundle.job.timeout_minute"),
                *("bundle.configuration.env.1", "bundle.configuration.env.2", "bundle.configuration.secrets.a b"),
                *("bundle.configuration.caches[0].key", "bundle.configuration.caches[0].paths[0]"),
                "bundle.triggers.branches[0]",
                *("bundle.triggers.cron[0].timezone", "bundle.triggers.tags"),
            },
        ),
    ],
)
def test_values_that_make_no_sense_are_named_with_those_of_other_types(
    server: Server, path: str, body: Any, fields: set[str]
) -> None:
    found = errors(server, path, body)
    assert found.keys() == fields
    assert not any("Expected" in message or "`str`" in message for message in found.values())


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("/scm", {"type": "github", "repo": "shop", "token": "a b", "host": "ftp://x"}, {"token", "repo", "host"}),
        (
            "/scm",
            {"type": "gitlab", "repo": "shop", "token": None, "app_id": 1},
            {"token", "app_id", "repo", "installation_id"},
        ),
        (
            "/jira",
            {"host": "ftp://x", "email": "a@b", "api_token": "a b", "project_key": "b c"},
            {"host", "api_token", "project_key"},
        ),
    ],
)
def test_wrong_fields_of_a_connection_are_named_at_once(
    server: Server, project: int, path: str, body: dict[str, Any], fields: set[str]
) -> None:
    named = {"name": "x", "project_id" if path == "/scm" else "testhide_project_id": project}
    assert errors(server, path, body | named).keys() == fields


def types_within(expected: Any) -> Iterator[Any]:
    """Yields a type and, at any depth, those of its parts."""
    yield expected
    if (struct := struct_of(expected)) is not None:
        for member in struct_members(struct).values():
            yield from types_within(member)
    for option in alternatives(expected):
        for part in () if get_origin(option) is Literal else get_args(option):
            yield from types_within(part)


def test_every_form_of_a_text_is_described() -> None:
    bodies = {
        handler.parsed_data_field.annotation
        for route in make_app().routes
        for handler in getattr(route, "route_handlers", ())
        if handler.parsed_data_field is not None and not handler.opt.get("agents")
    }
    assert len(bodies) > 50
    unclear = {str(kind) for body in bodies for kind in types_within(body) if "of another form" in describe(kind)}
    assert unclear == set()


@pytest.mark.parametrize("far", ["0001-01-01", "9999-12-31T23:59:59-23:59", "9000-01-01"])
def test_a_time_that_no_calendar_of_ours_reaches(server: Server, job: int, far: str) -> None:
    says = "must be a time of the years 1970 to 8999"
    entry = {"job_id": job, "node_id": "a.py::b", "reason": "flaky", "expires_at": far}
    assert errors(server, "/quarantine", entry) == {"expires_at": says}
    hook = server.admin.create("/webhooks", url="https://hooks.example.com/", events=["build.failed"])["id"]
    assert errors(server, f"/webhooks/{hook}/replay", {"since": far}) == {"since": says}


@pytest.mark.parametrize(
    ("field", "value"),
    [("branch", "main\n"), ("commit_sha", "abcdef\n"), ("env", {"A\n": "x"}), ("secrets", {"A\n": "x"})],
)
def test_a_line_break_at_the_end_is_no_part_of_a_name(field: str, value: Any) -> None:
    with pytest.raises(Invalid) as refused:
        convert_body({"job_id": 1, field: value}, NewBuild)
    assert [error.field.partition(".")[0] for error in refused.value.errors] == [field]


def test_a_missing_field_is_required(server: Server) -> None:
    found = errors(server, "/jobs", {"title": "x"})
    assert found.keys() == {"name", "project_id", "title"}
    assert found["name"] == found["project_id"] == "is required"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/builds?branchh=main", "branchh: is not known here; did you mean branch?"),
        ("/projects?colour=red", "colour: is not known here"),
        ("/me?verbose=1", "verbose: is not known here"),
    ],
)
def test_an_unknown_query_parameter_is_refused(server: Server, path: str, hint: str) -> None:
    answer = server.admin.get(f"/api/v3{path}")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(hint)


def test_an_agent_may_send_what_a_newer_release_knows(server: Server, project: int) -> None:
    """Agents and server are replaced one after the other: what one of them adds is ignored by the other."""
    pool = server.admin.create("/node-pools", name="newer", project_id=project)["id"]
    token = server.admin.create("/nodes", name="newer agent", pool_id=pool)["agent_token"]
    hello = {"version": "9", "platform": "linux", "hostname": "h", "cpu_cores": 1, "ram_gb": 1.0, "running": []}
    agent = server.client().authorize(token)
    agent.post("/api/v3/agent/connect", json=hello | {"session": "session-of-newer", "gpu": "none"}).raise_for_status()


def test_what_get_answered_fits_put_but_a_read_only_field_alone_does_not(server: Server, job: int) -> None:
    path = f"/api/v3/jobs/{job}"
    whole = server.admin.get(path).json()
    server.admin.put(path, json=whole | {"name": "Renamed"}).then(200, name="Renamed")
    answer = server.admin.put(path, json={"project_id": whole["project_id"] + 1})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "project_id"


def test_a_whole_number_may_be_written_with_a_fraction_of_zero(server: Server, project: int) -> None:
    """To JSON Schema, by which the body is described, 2.0 is an integer."""
    job = server.admin.create("/jobs", name="Nightly", project_id=float(project), max_parallel=2.0, required_tags=[])
    server.admin.get(f"/api/v3/jobs/{job['id']}").then(200, project_id=project, max_parallel=2)
    more = {"name": "Nightly", "project_id": project, "max_parallel": 2.5}
    assert errors(server, "/jobs", more)["max_parallel"] == "must be a whole number from 1 to 1000, not 2.5"
    huge = {"name": "Nightly", "project_id": 1e300, "max_parallel": 1.0}
    assert errors(server, "/jobs", huge).keys() == {"project_id"}


class Inner(msgspec.Struct):
    a: int


class Outer(msgspec.Struct):
    inner: Inner
    env: dict[str, str] = {}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "body must be an object, not []"),
        ({"inner": 3}, "inner must be an object, not 3"),
        ({"inner": {"a": 1}, "env": [1]}, "env must be an object, not [1]"),
        ({"inner": {}}, "inner.a is required"),
    ],
)
def test_what_is_no_object_is_shown(value: Any, says: str) -> None:
    assert [f"{error.field} {error.message}" for error in find_wrong(value, Outer)] == [says]


class WithSecrets(msgspec.Struct):
    title: str
    secrets: dict[str, str | None] | list[str] = {}
    token: Annotated[str, Meta(max_length=10)] | None = None
    url: str | None = None


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"title": "x", "secrets": {"PIN": 12345678}}, "secrets.PIN"),
        ({"title": "x", "secrets": {"PIN": ["12345678"]}}, "secrets.PIN"),
        ({"title": "x", "secrets": "12345678"}, "secrets"),
        ({"title": "x", "token": {"x": "12345678"}}, "token"),
        ({"title": "x", "token": "12345678901"}, "token"),
        ({"title": "x", "url": ["https://example.com/12345678"]}, "url"),
        ([{"token": "12345678"}], "body"),
        ("12345678", "body"),
    ],
)
def test_no_secret_is_repeated(value: Any, field: str) -> None:
    (error,) = find_wrong(value, WithSecrets)
    assert (error.field, error.message.startswith("must be "), "1234" in error.message) == (field, True, False)
    (error,) = find_wrong({"title": 1234}, WithSecrets)
    assert error.message == "must be a text, not 1234"


class Watched(list[Any]):
    """A list that counts how many of its items are looked at."""

    seen = 0

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            self.seen += 1
            yield item


class Lists(msgspec.Struct):
    whole: list[Inner] = []
    few: Annotated[list[Inner], Meta(max_length=10)] | None = None
    named: Annotated[dict[str, int], Meta(max_length=10)] = {}


def refusal(value: Any) -> Invalid:
    with pytest.raises(Invalid) as refused:
        convert_body(value, Lists)
    return refused.value


@pytest.mark.parametrize("item", [1, {}, {"b": 1}, {"a": "x"}, {"a": 1, "b": 2}])
def test_the_search_ends_when_enough_is_wrong(item: Any) -> None:
    items = Watched([item] * 1_000)
    assert len(refusal({"whole": items}).errors) == MAX_ERRORS
    assert items.seen <= MAX_ERRORS + 1


def test_a_list_that_is_too_long_is_wrong_as_a_whole() -> None:
    items = Watched([{"b": "x"}] * 1_000)
    (error,) = refusal({"few": items}).errors
    assert error.message.startswith("must be a list of at most 10 items or null, not [")
    assert items.seen <= len(items), "it is written out once"
    (error,) = refusal({"named": {str(number): "x" for number in range(1_000)}}).errors
    assert error.message.startswith("must be an object of at most 10 names, not {")


def test_names_are_repeated_in_part() -> None:
    long = "n" * 100_000
    for refused in (refusal({long: 1}), refusal({"named": {long: "x"}})):
        assert len(refused.detail) < 400
    with pytest.raises(Invalid) as doubled:
        refuse_doubled([(f"{long}{number // 2}", 1) for number in range(1_000)])
    assert len(doubled.value.errors) == MAX_ERRORS
    assert len(doubled.value.detail) < MAX_ERRORS * 200


def test_a_query_has_not_too_many_parameters(server: Server) -> None:
    for count, errors in ((MAX_PARAMETERS, MAX_ERRORS), (MAX_PARAMETERS + 1, 0)):
        query = "&".join(f"{'n' * 100}{number}=1" for number in range(count))
        answer = server.admin.get(f"/api/v3/projects?{query}")
        assert answer.status_code == 422
        assert len(answer.json().get("errors", ())) == errors
        assert len(answer.text) < 100 * (errors + 1) * 5
