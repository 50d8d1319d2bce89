"""The audit trail: its index, the summaries of events, and the fields that events changed."""

import base64
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from domain.builds import BuildFinished, BuildQueued, BuildRequeued, BuildStarted
from domain.core.events import Event, EventMetadata, Recorded
from domain.identity_providers import IdentityProviderCreated, IdentityProviderUpdated
from domain.jobs import Configuration, JobConfigured, JobCreated, JobUpdated
from domain.nodes import NodeRegistered
from domain.projects import MemberAdmitted, ProjectCreated, WebhookSecretRotated
from domain.quarantine import TestsQuarantined
from domain.registry import AREAS, EVENTS
from domain.users import UserRegistered
from domain.vcenter_operations import VcenterOperationRequested
from domain.webhooks import WebhookRegistered, WebhookUpdated
from projections import audit_trail
from projections.audit_trail import NO_PROJECT, TrailRow, actor_number, microseconds, type_number
from projections.audit_view.entries import describe
from projections.audit_view.stream_changes import BLANK, MAX_CHANGES, SECRET, StreamFolder, find_category
from projections.audit_view.summaries import summarize
from tests.support.spec import given
from tests.support.strategies import structs

AT = datetime(2026, 5, 20, 10, tzinfo=UTC)
HIDDEN = "kept in the dark"
JOB = JobCreated(job_id=1, project_id=2, title="Smoke")


def recorded(events: Iterable[Event], erased: bool = False) -> list[Recorded]:
    return [Recorded(event.stream, number, number, event, erased) for number, event in enumerate(events, start=1)]


def changes(*events: Event, erased: bool = False) -> dict[str, tuple[Any, Any]]:
    """What the last of these events of one stream changed: field -> from and to."""
    folder = StreamFolder(events[-1].stream, {len(events)})
    folder.apply(recorded(events, erased))
    return {change.field: (change.before, change.after) for change in folder.changes[len(events)]}


def test_every_event_has_a_row_of_numbers() -> None:
    stamped = EventMetadata(AT, "user:7").on(JOB)
    rows = given(stamped, LEADER).when(audit_trail.PROJECTION)
    first, second = rows.all(TrailRow)
    assert first == TrailRow(
        position=1, at_us=microseconds(AT), actor=actor_number("user:7"), type=type_number("job.created"), project_id=2
    )
    assert (second.position, second.project_id) == (2, NO_PROJECT)


LEADER = EVENTS["dispatch.leadership_taken"](leader="a")  # type: ignore[call-arg]


def test_no_two_types_have_one_number() -> None:
    assert len({type_number(name) for name in EVENTS}) == len(EVENTS)
    assert all(-(2**31) <= type_number(name) < 2**31 for name in EVENTS)


@pytest.mark.parametrize("name", EVENTS)
@settings(max_examples=6)
@hypothesis.given(data=st.data())
def test_every_event_has_a_summary(name: str, data: st.DataObject) -> None:
    event = data.draw(structs(EVENTS[name]))
    for one in (event, blank(event)):
        summary = summarize(one)
        assert summary == summary.strip()
        assert not {"None", "“”", "  ", "[", "{"} & set(summary.split()), summary


def test_a_machine_that_autoscaling_deletes_is_named() -> None:
    event = VcenterOperationRequested(operation_id=3, vcenter_id=1, kind="delete", vm_name="testhide-3")
    assert summarize(event) == "asked vCenter 1 to delete testhide-3"


def blank(event: Event) -> Event:
    """Returns the event as it is read after its sealed fields were erased."""
    defaults = {field.name: field for field in msgspec.structs.fields(event)}
    made = {
        name: found.default if found.default is not msgspec.NODEFAULT else found.default_factory()
        for name in event.sealed
        if (found := defaults[name])
    }
    return msgspec.structs.replace(event, **made)


@pytest.mark.parametrize("area", AREAS, ids=lambda area: area.__name__)
@settings(max_examples=8)
@hypothesis.given(data=st.data())
def test_no_secret_is_ever_shown(area: Any, data: st.DataObject) -> None:
    history = [in_the_dark(event) for event in data.draw(st.lists(st.one_of(*map(structs, area.EVENTS)), max_size=8))]
    for stream in {event.stream for event in history}:
        events = recorded(event for event in history if event.stream == stream)
        text = msgspec.json.encode([describe(one, None) for one in events]).decode()
        if find_category(stream) is not None:
            folder = StreamFolder(stream, range(1, len(events) + 1))
            folder.apply(events)
            text += msgspec.json.encode(folder.changes).decode()
        assert HIDDEN not in text
        assert base64.b64encode(HIDDEN.encode()).decode() not in text


@pytest.mark.parametrize("area", AREAS, ids=lambda area: area.__name__)
@settings(max_examples=8)
@hypothesis.given(data=st.data())
def test_each_change_goes_on_from_the_one_before(area: Any, data: st.DataObject) -> None:
    history = data.draw(st.lists(st.one_of(*map(structs, area.EVENTS)), max_size=8))
    for stream in {event.stream for event in history if find_category(event.stream) is not None}:
        events = recorded(event for event in history if event.stream == stream)
        folder = StreamFolder(stream, range(1, len(events) + 1))
        folder.apply(events)
        now: dict[str, Any] = {}
        for one in events:
            for change in folder.changes[one.position]:
                assert change.before == now.get(change.field) or change.before in (*BLANK, SECRET)
                now[change.field] = change.after


def in_the_dark(value: Any) -> Any:
    """The same with all that is secret in it set to HIDDEN."""
    match value:
        case bytes():
            return HIDDEN.encode()
        case dict():
            return {key: in_the_dark(item) for key, item in value.items()}
        case msgspec.Struct():
            made = {name: in_the_dark(getattr(value, name)) for name in value.__struct_fields__}
            hashes = {name: HIDDEN for name in made if name in ("password_hash", "token")}
            return msgspec.structs.replace(value, **made | hashes)
        case _:
            return value


def test_a_created_resource_shows_its_given_fields() -> None:
    assert changes(JOB).items() >= {"title": (None, "Smoke"), "project_id": (None, 2), "enabled": (None, True)}.items()
    assert not {"job_id", "repository", "required_tags", "deleted"} & changes(JOB).keys()


def test_changes_are_from_what_was_before() -> None:
    updated = JobUpdated(job_id=1, project_id=2, title="Full", max_parallel=3)
    assert changes(JOB, updated) == {"title": ("Smoke", "Full"), "max_parallel": (1, 3)}
    cleared = JobUpdated(job_id=1, project_id=2, cleared=("repository",))
    repository = JobUpdated(job_id=1, project_id=2, repository="https://x/y")
    assert changes(JOB, repository, cleared) == {"repository": ("https://x/y", None)}


def test_secrets_show_that_they_changed_and_nothing_else() -> None:
    def configured(secret: bytes, **env: str) -> JobConfigured:
        return JobConfigured(job_id=1, project_id=2, configuration=Configuration("x", env=env, secrets={"KEY": secret}))

    first = configured(b"one", HOST="a", api_token="in clear")
    assert changes(JOB, first).items() >= {"configuration.secrets.KEY": (None, SECRET)}.items()
    assert changes(JOB, first)["configuration.env.api_token"] == (None, SECRET)
    assert changes(JOB, first, configured(b"two", HOST="b", api_token="in clear")) == {
        "configuration.env.HOST": ("a", "b"),
        "configuration.secrets.KEY": (SECRET, SECRET),
    }


def test_what_no_state_holds_is_shown_beside_it() -> None:
    made = ProjectCreated(project_id=1, title="P", slug="p", sealed_webhook_secret=b"s")
    assert changes(made)["webhook_secret"] == (None, SECRET)
    rotated = WebhookSecretRotated(project_id=1, sealed_webhook_secret=b"t")
    assert changes(made, rotated) == {"webhook_secret": (SECRET, SECRET)}
    assert changes(made, MemberAdmitted(project_id=1, user_id=7, access="write")) == {"members.7": (None, "write")}
    hook: dict[str, Any] = {"webhook_id": 1, "project_id": 3}
    registered = WebhookRegistered(**hook, url="https://a.example/?token=one", events=["build.failed"])
    updated = WebhookUpdated(**hook, url="https://a.example/?token=two")
    shown = "https://a.example/?token=***"
    assert changes(registered)["url"] == (None, shown)
    assert changes(registered, updated) == {"url": (shown, shown)}
    assert changes(NodeRegistered(node_id=1, title="n", token_hash=b"h"))["agent_token"] == (None, SECRET)
    assert changes(UserRegistered(user_id=1, role="viewer", password_hash="h"))["password"] == (None, SECRET)


def test_addresses_of_a_provider_are_shown_without_tokens() -> None:
    url, shown = "https://idp.example/sso?key=one", "https://idp.example/sso?key=***"
    fields: dict[str, Any] = {"provider_id": 1, "title": "Company", "entity_id": "idp", "claim": "c", "roles": {}}
    fields |= dict.fromkeys(("active", "allow_idp_initiated", "create_users", "link_by_email"), True)
    fields |= {"default_role": "viewer", "email_attribute": "", "role_attribute": "", "certificates": []}
    created = IdentityProviderCreated(**fields, sso_url=url, metadata_url=url)
    updated = IdentityProviderUpdated(provider_id=1, sso_url=url.replace("one", "two"))
    assert (changes(created)["sso_url"], changes(created)["metadata_url"]) == ((None, shown), (None, shown))
    assert changes(created, updated) == {"sso_url": (shown, shown)}


def test_a_build_shows_its_status_and_what_it_was_queued_with() -> None:
    ids: dict[str, Any] = {"build_id": 1, "job_id": 2, "project_id": 3}
    queued = BuildQueued(**ids, branch="main", configuration=Configuration("pytest", secrets={"KEY": b"s"}))
    shown = changes(queued)
    assert (shown["status"], shown["branch"]) == ((None, "queued"), (None, "main"))
    assert shown["configuration.secrets.KEY"] == (None, SECRET)
    started = BuildStarted(**ids, node_id=4, attempt=1, commit_sha="c0ffee")
    assert changes(queued, started) == {
        "attempt": (0, 1),
        "commit_sha": (None, "c0ffee"),
        "node_id": (None, 4),
        "status": ("queued", "running"),
    }
    assert changes(queued, started, BuildFinished(**ids, status="failed", node_id=4))["status"] == ("running", "failed")


def test_a_build_that_its_agent_forgot_says_so() -> None:
    how = "the agent of node 3 did not run it any more and had not reported its end"
    lost = BuildRequeued(build_id=1, job_id=2, project_id=3, node_id=3, attempt=1, reason="agent_lost", detail=how)
    forgotten, gone = recorded([lost, msgspec.structs.replace(lost, detail=None)])
    assert describe(forgotten, None).summary.endswith(f"put build 1 back into the queue: {how}.")
    assert describe(gone, None).summary.endswith("put build 1 back into the queue: node 3 was lost.")


def test_an_erased_event_changes_what_is_left_of_it() -> None:
    shown = changes(blank(JobCreated(job_id=1, project_id=2, title="")), erased=True)
    assert "title" not in shown
    assert shown["project_id"] == (None, 2)
    queued = BuildQueued(build_id=1, job_id=2, project_id=3)
    (erased,) = recorded([EventMetadata(AT, "user:7").on(queued)], erased=True)
    assert describe(erased, "Anna").summary == "Anna queued build 1 of job 2. Its texts were erased."


FIELDS = 2
"""Of an entry: its id and its reason."""


def test_many_changes_are_cut_with_their_number() -> None:
    many = [f"test_{number}" for number in range(500)]
    shown = changes(TestsQuarantined(job_id=1, project_id=2, first_id=1, node_ids=many, reason="flaky"))
    assert len(shown) == MAX_CHANGES + 1
    assert shown["…"][1] == f"and {len(many) * FIELDS - MAX_CHANGES:,} more"


@pytest.mark.parametrize(
    ("actor", "name", "begins"),
    [
        ("user:7", "Anna Smith", "Anna Smith changed"),
        ("user:7", None, "User 7 changed"),
        ("node:3", "linux-1", "Node linux-1 changed"),
        ("node:3", None, "Node 3 changed"),
        ("system:retention", None, "Retention changed"),
        ("system:else", None, "The server (else) changed"),
        ("anonymous", None, "Somebody changed"),
    ],
)
def test_the_actor_is_called_as_today(actor: str, name: str | None, begins: str) -> None:
    (one,) = recorded([EventMetadata(AT, actor).on(JobUpdated(job_id=1, project_id=2, title="x"))])
    assert describe(one, name).summary == f"{begins} job 1."


@pytest.mark.parametrize(
    ("stream", "prefix"),
    [
        ("build-1", "build"),
        ("node-command-1", "node-command"),
        ("node-pool-1", "node-pool"),
        ("node-1", "node"),
        ("api-token-1", "api-token"),
        ("project-1", "project"),
        ("results-1", None),
    ],
)
def test_streams_are_of_their_longest_kind(stream: str, prefix: str | None) -> None:
    category = find_category(stream)
    assert (category.prefix if category else None) == prefix
