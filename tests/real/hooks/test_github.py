"""Payloads that GitHub publishes, of github.com and of GitHub Enterprise Server, sent as its hooks send them.

Needs Node.js for npm, and the package that is locked beside this file.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands.hooks.reading import read_message
from tests.support.builders import given_project
from tests.support.server import Server

pytestmark = pytest.mark.real("node")

EXAMPLES = Path(__file__).parent / "node_modules" / "@octokit" / "webhooks-examples"
STARTING = {"opened", "reopened", "synchronize", "ready_for_review"}
REPORTED = {*STARTING, "closed"}


def payloads(*events: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(event, payload) of all examples, or of those of these events."""
    for index in sorted(EXAMPLES.glob("*/index.json")):
        for item in json.loads(index.read_text()):
            if not events or item["name"] in events:
                yield from ((item["name"], example) for example in item["examples"])


def test_pushes_are_understood() -> None:
    read = 0
    for event, payload in payloads("push"):
        (change,) = read_message({"x-github-event": event}, json.dumps(payload).encode()).changes
        assert payload["ref"] == f"refs/{'tags' if change.kind == 'tag' else 'heads'}/{change.branch}"
        assert change.repository == payload["repository"]["full_name"].lower()
        assert change.deleted == payload["deleted"]
        assert change.commit == (None if change.deleted else payload["after"])
        if payload["head_commit"] is not None:
            assert payload["head_commit"]["message"].startswith(change.message)
            assert change.author == payload["head_commit"]["author"]["email"]
        listed = {path for commit in payload["commits"] for path in (*commit["added"], *commit["modified"])}
        assert listed <= set(change.paths or listed)
        read += 1
    assert read >= 10


def test_pull_requests_are_understood() -> None:
    actions, forks = Counter[str](), list[bool]()
    for event, payload in payloads("pull_request"):
        message = read_message({"x-github-event": event}, json.dumps(payload).encode())
        actions[payload["action"]] += 1
        assert bool(message.changes) == (payload["action"] in REPORTED)
        if not message.changes:
            assert payload["action"] in message.ignored
            continue
        (change,), pull = message.changes, payload["pull_request"]
        assert change.deleted == (payload["action"] == "closed")
        assert (change.pull_request, change.branch, change.commit) == (
            payload["number"],
            pull["head"]["ref"],
            pull["head"]["sha"],
        )
        assert change.target == pull["base"]["ref"]
        forks.append(pull["head"]["repo"]["full_name"] != pull["base"]["repo"]["full_name"])
        assert change.fork == forks[-1]
        assert change.head_ref == (f"refs/pull/{payload['number']}/head" if change.fork else "")
        assert change.fork_repository == (pull["head"]["repo"]["full_name"] if change.fork else "")
        theirs = pull["head"] | {"repo": pull["head"]["repo"] | {"full_name": "somebody/else"}}
        forked = payload | {"pull_request": pull | {"head": theirs}}
        (moved,) = read_message({"x-github-event": event}, json.dumps(forked).encode()).changes
        assert (moved.fork, moved.fork_repository) == (True, "somebody/else")
    assert actions.keys() >= REPORTED


def test_every_example_is_answered(server: Server) -> None:
    """Signed with the project's secret, over HTTP. No example starts anything by an event of another type."""
    project = given_project(server)
    secret = server.admin.when("POST", f"/projects/{project}/rotate-webhook-secret").then(200)["webhook_secret"]
    server.wait_until_projected()
    client, statuses = server.client(), Counter[tuple[str, int]]()
    for event, payload in payloads():
        body = json.dumps(payload).encode()
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"X-GitHub-Event": event, "X-Hub-Signature-256": f"sha256={digest}"}
        answer = client.post(f"/webhook/proj/{project}", data=body, headers=headers)
        statuses[event, answer.status_code] += 1
        assert answer.status_code in (200, 202), f"{event}: {answer.text}"
        assert answer.json()["accepted"] == (
            event == "push" or (event == "pull_request" and payload["action"] in REPORTED)
        )
    assert {event for event, status in statuses if status == 200} == {"push", "pull_request", "ping"}
    assert statuses["ping", 202] == statuses["push", 202] == 0
    assert statuses["create", 202] > 0
