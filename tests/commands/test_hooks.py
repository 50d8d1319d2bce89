"""Messages of inbound hooks: signatures, and what each host reports. The payloads of GitLab and Bitbucket are shaped by
their documentation; those of GitHub in tests/real/hooks are GitHub's.
"""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from commands.hooks.message import HookMessage
from commands.hooks.reading import find_delivery_id, read_message
from commands.hooks.signatures import find_refusal, is_signed, make_signing_token
from domain.core.errors import Invalid
from domain.triggers import RepositoryChange

SECRET, BODY, NOW = "wh_sec_1", b'{"ref": "refs/heads/main"}', datetime(2026, 5, 20, 12, tzinfo=UTC)
OLD, NEW, NONE = "a" * 40, "b" * 40, "0" * 40


def sign(body: bytes = BODY, secret: str = SECRET, algorithm: str = "sha256") -> str:
    return f"{algorithm}={hmac.new(secret.encode(), body, algorithm).hexdigest()}"


def sign_by_standard(age_s: int = 0, secret: str = SECRET) -> dict[str, str]:
    timestamp = str(int(NOW.timestamp()) - age_s)
    key = base64.b64decode(make_signing_token(secret).removeprefix("whsec_"))
    digest = hmac.digest(key, f"m-1.{timestamp}.".encode() + BODY, hashlib.sha256)
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": "m-1", "webhook-timestamp": timestamp, "webhook-signature": f"v1,x {signature}"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-hub-signature-256": sign()}, True),
        ({"x-hub-signature": sign()}, True),
        ({"x-hub-signature": sign(algorithm="sha1"), "x-hub-signature-256": sign()}, True),
        ({"x-gitlab-token": SECRET}, True),
        (sign_by_standard(), True),
        ({}, False),
        ({"x-hub-signature": sign(algorithm="sha1")}, False),
        ({"x-hub-signature-256": sign(b"{}")}, False),
        ({"x-hub-signature-256": sign(secret="other")}, False),
        ({"x-hub-signature-256": "sha256="}, False),
        ({"x-hub-signature-256": sign(secret="other"), "x-gitlab-token": SECRET}, False),
        ({"x-gitlab-token": "other"}, False),
        ({"x-gitlab-token": "é"}, False),
        (sign_by_standard(age_s=301), False),
        (sign_by_standard(secret="other"), False),
        (sign_by_standard() | {"webhook-timestamp": "x"}, False),
    ],
)
def test_signatures(headers: dict[str, str], expected: bool) -> None:
    assert is_signed(headers, BODY, SECRET, NOW) is expected


def test_an_empty_secret_signs_nothing() -> None:
    assert not is_signed({"x-hub-signature-256": sign(secret="")}, BODY, "", NOW)
    assert not is_signed({"x-gitlab-token": ""}, BODY, "", NOW)


@hypothesis.given(st.dictionaries(st.sampled_from(["x-hub-signature-256", "x-gitlab-token"]), st.text()), st.binary())
def test_nobody_guesses_a_signature(headers: dict[str, str], body: bytes) -> None:
    assert not is_signed(headers, body, SECRET, NOW)


def test_what_cannot_be_verified_is_refused_at_once() -> None:
    assert "no signature" in str(find_refusal({}))
    assert "SHA-1" in str(find_refusal({"x-hub-signature": sign(algorithm="sha1")}))
    assert find_refusal({"x-gitlab-token": "x"}) is None


def test_the_id_of_a_delivery() -> None:
    assert find_delivery_id({"x-github-delivery": "d"}) == "d"
    assert find_delivery_id({"idempotency-key": "i", "x-gitlab-event-uuid": "u"}) == "i"
    assert find_delivery_id({}) == ""


def read(headers: dict[str, str], payload: Any) -> HookMessage:
    return read_message(headers, json.dumps(payload).encode())


def only_change(message: HookMessage) -> RepositoryChange:
    (change,) = message.changes
    return change


def test_a_message_without_an_event_is_a_push() -> None:
    message = read({}, {"ref": "refs/heads/main", "repository": {"full_name": "Acme/Backend"}})
    assert message == HookMessage(
        "github", "acme/backend", (RepositoryChange(branch="main", repository="acme/backend"),)
    )


def test_a_push_of_github_that_lists_not_all_its_commits_has_no_paths() -> None:
    commit = {"added": ["a"], "removed": [], "modified": ["b"], "message": "x"}
    fields = {"ref": "refs/heads/main", "after": NEW, "before": OLD, "forced": False}
    payload = {**fields, "commits": [commit], "head_commit": commit}
    assert only_change(read({"x-github-event": "push"}, payload)).paths == ["a", "b"]
    for commits in ([commit] * 2_048, [commit | {"added": ["a"] * 3_000}], []):
        assert only_change(read({"x-github-event": "push"}, payload | {"commits": commits})).paths is None


@pytest.mark.parametrize(
    ("forced", "paths", "fast_forward"),
    [({"forced": False}, ["a"], True), ({"forced": True}, None, False), ({}, None, False)],
)
def test_a_push_of_github_says_whether_it_drops_commits(
    forced: dict[str, bool], paths: list[str] | None, fast_forward: bool
) -> None:
    payload = {"ref": "refs/heads/main", "after": NEW, "before": OLD, "commits": [{"added": ["a"]}], **forced}
    change = only_change(read({"x-github-event": "push"}, payload))
    assert (change.paths, change.fast_forward, change.may_lack_paths) == (paths, fast_forward, False)


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({"total_commits": 1}, ["a"]),
        ({"total_commits": 6}, None),
        ({}, None),  # before release 1.18
        ({"total_commits": 1, "before": NONE}, None),  # it lists old commits, too
    ],
)
def test_a_push_of_gitea_does_not_say_whether_it_drops_commits(fields: dict[str, Any], paths: list[str] | None) -> None:
    payload = {"ref": "refs/heads/main", "after": NEW, "before": OLD, "commits": [{"added": ["a"]}], **fields}
    change = only_change(read({"x-github-event": "push"}, payload))
    assert (change.paths, change.may_lack_paths) == (paths, paths is not None)


@pytest.mark.parametrize(
    ("repository", "head", "fork"),
    [
        ("acme/web", {"ref": "fix", "repo": {"full_name": "Acme/Web"}}, False),
        ("acme/web", {"ref": "fix", "repo": {"full_name": "ann/web"}}, True),
        ("acme/web", {"ref": "fix", "repo": None}, True),
        ("acme/web", {"ref": "refs/pull/5/head", "repo": {"full_name": "acme/web"}}, True),  # pushed to refs/for/main
        ("", {"ref": "fix", "repo": {"full_name": ""}}, True),
    ],
)
def test_a_pull_request_that_a_reader_may_have_made_is_from_a_fork(
    repository: str, head: dict[str, Any], fork: bool
) -> None:
    pull = {"head": head | {"sha": NEW}, "base": {"ref": "main", "sha": OLD}}
    payload = {"action": "opened", "number": 5, "repository": {"full_name": repository}, "pull_request": pull}
    change = only_change(read({"x-github-event": "pull_request"}, payload))
    assert change.fork is fork
    named = (head["repo"] or {}).get("full_name", "") if fork else ""
    assert (change.fork_repository, change.head_ref) == (named, "refs/pull/5/head" if fork else "")
    closed = read({"x-github-event": "pull_request"}, payload | {"action": "closed"})
    assert only_change(closed) == msgspec.structs.replace(change, deleted=True)


GITLAB_COMMIT = {
    "id": NEW,
    "message": "Fix it [skip ci]\n\nBody",
    "author": {"name": "Ann", "email": "ann@example.com"},
    "added": ["src/a.py"],
    "modified": ["b"],
    "removed": ["c"],
}
GITLAB_PUSH = {
    "object_kind": "push",
    "before": OLD,
    "after": NEW,
    "ref": "refs/heads/main",
    "checkout_sha": NEW,
    "project": {"id": 15, "path_with_namespace": "Group/Sub/Web"},
    "commits": [GITLAB_COMMIT],
    "total_commits_count": 1,
}
GITLAB_MERGE = {
    "object_kind": "merge_request",
    "project": {"path_with_namespace": "group/web"},
    "object_attributes": {
        "iid": 7,
        "title": "Fix",
        "action": "open",
        "source_branch": "fix",
        "target_branch": "main",
        "source_project_id": 14,
        "target_project_id": 14,
        "last_commit": {"id": NEW, "message": "Fix it", "author": {"name": "Ann", "email": "ann@example.com"}},
    },
}


def test_a_push_of_gitlab() -> None:
    assert only_change(read({"x-gitlab-event": "Push Hook"}, GITLAB_PUSH)) == RepositoryChange(
        "push",
        "main",
        NEW,
        OLD,
        "Fix it [skip ci]",
        "[skip ci]",
        "ann@example.com",
        ["src/a.py", "c", "b"],
        repository="group/sub/web",
    )
    cut = GITLAB_PUSH | {"total_commits_count": 21}
    assert only_change(read({"x-gitlab-event": "Push Hook"}, cut)).paths is None
    gone = GITLAB_PUSH | {"after": NONE, "checkout_sha": None, "commits": []}
    assert only_change(read({"x-gitlab-event": "Push Hook"}, gone)).deleted


def test_a_tag_of_gitlab() -> None:
    payload = GITLAB_PUSH | {"ref": "refs/tags/v1", "before": NONE, "after": OLD, "commits": []}
    change = only_change(read({"x-gitlab-event": "Tag Push Hook"}, payload))
    assert (change.kind, change.branch, change.commit, change.before) == ("tag", "v1", NEW, None)


def merge(**attributes: Any) -> HookMessage:
    payload = GITLAB_MERGE | {"object_attributes": GITLAB_MERGE["object_attributes"] | attributes}  # type: ignore[operator]
    return read({"x-gitlab-event": "Merge Request Hook"}, payload)


def test_a_merge_request_of_gitlab() -> None:
    change = only_change(merge())
    assert (change.kind, change.branch, change.commit, change.pull_request) == ("pull_request", "fix", NEW, 7)
    assert (change.target, change.fork, change.paths) == ("main", False, None)
    assert not change.head_ref
    fork = only_change(merge(source_project_id=99, source={"path_with_namespace": "bob/web"}))
    assert (fork.fork, fork.fork_repository, fork.head_ref) == (True, "bob/web", "refs/merge-requests/7/head")
    assert only_change(merge(source_project_id=None, source=None)).fork, "it was deleted"
    assert only_change(merge(action="update", oldrev=OLD)).commit == NEW
    assert "update" in merge(action="update").ignored
    assert "approved" in merge(action="approved").ignored
    assert [only_change(merge(action=action)).deleted for action in ("open", "close", "merge")] == [False, True, True]


CLOUD_COMMIT = {"hash": NEW, "message": "Fix it\n", "author": {"raw": "Ann <ann@example.com>"}}
CLOUD_REPOSITORY = {"full_name": "Acme/Web"}


def test_a_push_of_bitbucket_cloud_may_have_several_changes() -> None:
    main = {"type": "branch", "name": "main", "target": CLOUD_COMMIT}
    old = {"type": "branch", "name": "main", "target": CLOUD_COMMIT | {"hash": OLD}}
    tag = {"type": "tag", "name": "v1", "target": CLOUD_COMMIT}
    changes = [{"new": main, "old": old}, {"new": tag, "old": None}, {"new": None, "old": old}]
    message = read({"x-event-key": "repo:push"}, {"repository": CLOUD_REPOSITORY, "push": {"changes": changes}})
    assert message.changes == [
        RepositoryChange("push", "main", NEW, OLD, "Fix it", "", "ann@example.com", repository="acme/web"),
        RepositoryChange("tag", "v1", NEW, None, "Fix it", "", "ann@example.com", repository="acme/web"),
        RepositoryChange("push", "main", None, OLD, deleted=True, repository="acme/web"),
    ]


@pytest.mark.parametrize(("source", "fork"), [("acme/web", False), ("bob/web", True)])
def test_a_pull_request_of_bitbucket_cloud(source: str, fork: bool) -> None:
    side = {"branch": {"name": "fix"}, "commit": {"hash": NEW}}
    pull = {
        "id": 7,
        "title": "Fix",
        "source": side | {"repository": {"full_name": source}},
        "destination": {"branch": {"name": "main"}, "repository": CLOUD_REPOSITORY},
    }
    payload = {"repository": CLOUD_REPOSITORY, "pullrequest": pull}
    change = only_change(read({"x-event-key": "pullrequest:created"}, payload))
    assert (change.branch, change.commit, change.pull_request, change.fork) == ("fix", NEW, 7, fork)
    where = ("refs/heads/fix", "https://bitbucket.org/bob/web.git") if fork else ("", "")
    assert (change.head_ref, change.fork_url) == where, "it has no refs of pull requests"
    for missing in ({"repository": None}, {"commit": None, "repository": {"full_name": "bob/web"}}):
        gone = {"pullrequest": pull | {"source": side | missing}, "repository": CLOUD_REPOSITORY}
        assert "which commit of which fork" in read({"x-event-key": "pullrequest:created"}, gone).ignored
    short = side | {"commit": {"hash": NEW[:12]}, "repository": {"full_name": source}}
    message = read({"x-event-key": "pullrequest:created"}, payload | {"pullrequest": pull | {"source": short}})
    assert ("has only 12 digits" in message.ignored, len(message.changes)) == ((True, 0) if fork else (False, 1))
    assert not read({"x-event-key": "pullrequest:approved"}, payload).changes
    for event in ("pullrequest:fulfilled", "pullrequest:rejected"):
        closed = only_change(read({"x-event-key": event}, payload | {"pullrequest": pull | {"source": short}}))
        assert (closed.pull_request, closed.deleted) == (7, True), "whatever the message says about the commit"


SERVER_REPOSITORY = {"slug": "web", "id": 84, "project": {"key": "PROJ"}}


def test_a_push_of_bitbucket_data_center() -> None:
    def moved(name: str, kind: str, what: str, to: str = NEW) -> dict[str, Any]:
        return {"ref": {"displayId": name, "type": kind}, "fromHash": OLD, "toHash": to, "type": what}

    changes = [moved("main", "BRANCH", "UPDATE"), moved("v1", "TAG", "ADD"), moved("old", "BRANCH", "DELETE", NONE)]
    payload = {"repository": SERVER_REPOSITORY, "changes": changes, "toCommit": {"id": NEW, "message": "Fix it"}}
    message = read({"x-event-key": "repo:refs_changed"}, payload)
    assert [(change.kind, change.branch, change.commit, change.deleted) for change in message.changes] == [
        ("push", "main", NEW, False),
        ("tag", "v1", NEW, False),
        ("push", "old", None, True),
    ]
    assert message.repository == "proj/web"
    assert message.changes[0].message == "Fix it"


def test_a_pull_request_of_bitbucket_data_center() -> None:
    ref = {"displayId": "fix", "latestCommit": NEW, "repository": SERVER_REPOSITORY}
    pull = {"id": 7, "title": "Fix", "fromRef": ref, "toRef": ref | {"displayId": "main"}}
    change = only_change(read({"x-event-key": "pr:opened"}, {"pullRequest": pull}))
    assert (change.branch, change.target, change.commit, change.pull_request) == ("fix", "main", NEW, 7)
    assert not change.fork
    theirs = ref | {"repository": SERVER_REPOSITORY | {"project": {"key": "~bob"}}}
    fork = only_change(read({"x-event-key": "pr:opened"}, {"pullRequest": pull | {"fromRef": theirs}}))
    assert (fork.fork, fork.fork_repository, fork.head_ref) == (True, "~bob/web", "refs/pull-requests/7/from")
    for event in ("pr:merged", "pr:declined", "pr:deleted"):
        assert only_change(read({"x-event-key": event}, {"pullRequest": pull})).deleted


@pytest.mark.parametrize(
    "headers",
    [{"x-github-event": "star"}, {"x-gitlab-event": "Note Hook"}, {"x-event-key": "repo:fork"}],
)
def test_unknown_events_are_ignored(headers: dict[str, str]) -> None:
    message = read(headers, {})
    assert not message.changes
    assert "start nothing" in message.ignored


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"ref": 1}', b"\xff", b"{}", b'{"ref":"x","a":' + b"[" * 100_000])
def test_unreadable_payloads(body: bytes) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        read_message({"x-github-event": "push"}, body)


@hypothesis.given(st.sampled_from(["x-github-event", "x-gitlab-event", "x-event-key"]), st.data())
def test_any_json_is_read_or_refused(header: str, data: st.DataObject) -> None:
    event = data.draw(st.sampled_from(["push", "Push Hook", "Merge Request Hook", "repo:push", "pull_request", "x"]))
    values = st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner, max_size=2), max_leaves=4
    )
    keys = st.sampled_from(["ref", "commits", "push", "changes", "repository", "project", "after"])
    payload = data.draw(st.dictionaries(keys, values, max_size=4))
    try:
        read({header: event}, payload)
    except Invalid:
        return
