"""Plants words in every text of one project, and asks the server for them in every way, to see who finds them.

Names of nodes are not planted, since all users see nodes.
"""

import base64
import hashlib
import hmac
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from commands.flakiness import RecordChangedFlakiness
from domain.flakiness import FlakinessEmerged
from tests.permissions.operation import Ids, Operation
from tests.permissions.rules import public
from tests.permissions.table import EVALS, OPERATIONS
from tests.support.builders import finish, given_build, given_job, given_pool, given_project, upload
from tests.support.commands import execute
from tests.support.http import Answer, Client
from tests.support.server import Server
from tests.support.webhook_receiver import WebhookReceiver

STEM = "Zqplanted"
"""What all planted words begin with."""
SECRETS = {name: f"{STEM}Secret{name}5e9c" for name in ("webhook", "scm", "jira", "teams", "job")}
"""What only those who enter it know. No answer may show it to anybody."""
FORMS = SECRETS | {
    "password": f"hunter{STEM}22",
    "key": "AKIA" + "ZQ7PLANTED5E9CAA",
    "person": f"{STEM}.lee@mail.acme.com",
}
"""Secrets, and texts of failures and logs that are known by their form, so that no model may get them."""
TEXTS = (
    *("project", "description", "job", "pool", "branch", "suite", "test", "message", "trace", "output", "log"),
    *("artifact", "comment", "commit", "author", "issue", "pattern", "rule", "resolution", "quarantined", "hook"),
    *("channel", "endpoint", "integration", "variable", "question"),
)
"""Where the words are that a member of the project finds. Nobody is shown two more: properties of a suite, and changed
paths.
"""
ENDLESS = ("GET /events/stream", "GET /agent/next", "GET /audit/export")
"""Operations that the sweep leaves out: they never end, or `Planting.read_feed` and the test read them."""


def word(name: str) -> str:
    return f"{STEM}{name}x"


def encodings(text: str) -> Iterator[str]:
    """Yields what a text is, and what it is in JSON, in a URL and in HTML. Then the bytes that it has in base64."""
    yield from (text, unquote(text), html.unescape(text))
    if "\\u" in text:
        yield text.encode(errors="replace").decode("unicode_escape", errors="replace")


def contains(text: str, planted: str) -> bool:
    """Whether a text has a planted word, in any encoding."""
    folded = planted.casefold()
    if any(folded in form.casefold() for form in encodings(text)) or planted.encode().hex() in text.lower():
        return True
    for shift in range(3):  # a word may begin at any of the three bytes that four letters of base64 stand for
        encoded = base64.b64encode(b" " * shift + planted.encode()).decode()
        if encoded[4 * (shift > 0) : -4] in text:
            return True
    return False


@dataclass
class Planting:
    """Two projects on one server. Everything in `ids` and `planted` is of the first."""

    server: Server
    receiver: WebhookReceiver
    ids: Ids = field(default_factory=dict)
    project: int = 0
    elsewhere: int = 0
    """A project without planted words."""
    job_elsewhere: int = 0
    build_elsewhere: int = 0

    def plant(self) -> None:
        admin, server = self.server.admin, self.server
        self.project = given_project(server, name=f"Shop {word('project')}", description=word("description"))
        self.elsewhere = given_project(server, name="Shop elsewhere")
        for project, name in ((self.project, "hook"), (self.elsewhere, "other")):
            url = f"{self.receiver.url}/{word('hook') if name == 'hook' else name}"
            events = ["build.finished", "build.failed", "test.flaky", "test.quarantined"]
            hook = admin.create("/webhooks", url=url, events=events, secret=SECRETS["webhook"], project_id=project)
            self.ids.setdefault("webhooks", hook["id"])
        self._plant_endpoints()
        job = given_job(server, self.project, name=f"Nightly {word('job')}")
        configuration = {"command": "make", "setup": [], "env": {"A": word("variable")}, "artifacts": []}
        configuration |= {"secrets": {"J": SECRETS["job"]}}
        admin.when("PUT", f"/jobs/{job}/configuration", json=configuration).then(200)
        self.job_elsewhere = given_job(server, self.elsewhere, name="Nightly")
        rule = {"title": word("rule"), "classification": "infra", "pattern": word("pattern")}
        admin.when("PUT", f"/projects/{self.project}/classification-rules", json={"rules": [rule]}).then(200)
        builds = [self._run(job, number) for number in range(4)]
        self.build_elsewhere = self._run_elsewhere()
        server.wait_until_projected()
        tests = admin.fetch("/tests", build_id=builds[-1])["results"]
        failed = next(test for test in tests if test["status"] == "failed")
        self.ids |= {
            "project_id": self.project,
            "job_id": job,
            "build_id": builds[-1],
            "test_id": failed["id"],
            "ai": failed["test_case_id"],
            "stream": f"build-{builds[-1]}",
            "position": admin.fetch(f"/audit/streams/build-{builds[-1]}")[0]["position"],
        }
        self._say_things(builds[-1])
        self._push()

    def _plant_endpoints(self) -> None:
        admin, of_project = self.server.admin, {"project_id": self.project}
        self.ids["node-pools"] = given_pool(self.server, self.project, name=word("pool"))
        host = "http://127.0.0.1:1"
        scm = {"type": "github", "name": word("endpoint"), "repo": "acme/shop", "token": SECRETS["scm"], "host": host}
        self.ids["scm"] = admin.create("/scm", **scm, **of_project)["id"]
        jira = {"name": word("integration"), "host": host, "email": "a@example.com", "project_key": "BACK"}
        jira |= {"api_token": SECRETS["jira"], "deployment": "data_center"}
        self.ids["jira"] = admin.create("/jira", **jira, testhide_project_id=self.project)["id"]
        teams = {"name": word("channel"), "webhook_url": f"{host}/{SECRETS['teams']}", "events": ["test.quarantined"]}
        self.ids["ms-teams"] = admin.create("/ms-teams", **teams, **of_project)["id"]

    def _run(self, job: int, number: int) -> int:
        """Runs a build. In every second one, tests fail."""
        admin, has_failed = self.server.admin, number > 1
        build = given_build(self.server, job, branch=f"main-{word('branch')}", commit_sha=f"c{number}" * 20)
        secrets = f"password={FORMS['password']} {FORMS['key']} {FORMS['person']}"
        failure = (
            f'<failure message="AssertionError: {word("message")} expected 3 but was 4 {secrets}">'
            f'Traceback\n  File "pay.py", line 3, in {word("trace")}\nAssertionError: {word("pattern")}</failure>'
        )
        unread = f'<failure message="ValueError: {word("message")} has no rule">ValueError</failure>'
        property = f'<properties><property name="p" value="{word("property")}"/></properties>'
        report = (
            f'<testsuite name="{word("suite")}">{property}'
            f'<testcase classname="tests.test_pay" name="test_{word("test")}" time="1">{failure * has_failed}'
            f"<system-out>{word('output')}</system-out></testcase>"
            f'<testcase classname="tests.test_pay" name="test_{word("test")}2">{unread * has_failed}</testcase>'
            '<testcase classname="tests.test_pay" name="test_cart" time="1"/></testsuite>'
        )
        upload(admin, build, report.encode()).then(201)
        self.ids["artifact_id"] = upload(admin, build, b"x", name=f"{word('artifact')}.txt").then(201)["id"]
        lines = f"collecting\nERROR {word('log')} could not connect {secrets}\nmake: *** [test] Error 2\n"
        admin.when("POST", f"/builds/{build}/log", json={"offset": 0, "text": lines}).then(200)
        finish(self.server, build, "failed" if has_failed else "passed")
        return build

    def _run_elsewhere(self) -> int:
        build = given_build(self.server, self.job_elsewhere, branch="main", commit_sha="c3" * 20)
        failure = '<failure message="AssertionError: expected 3 but was 4">Traceback</failure>'
        report = f'<testsuite name="s"><testcase classname="tests.test_pay" name="test_cart">{failure}</testcase>'
        upload(self.server.admin, build, f"{report}</testsuite>".encode()).then(201)
        finish(self.server, build, "failed")
        return build

    def _say_things(self, build: int) -> None:
        admin, ids = self.server.admin, self.ids
        admin.create(f"/builds/{build}/comment", text=word("comment"))
        issue = {"title": word("issue"), "classification": "flaky", "pattern": "nothing like this"}
        ids["known_issue_id"] = admin.create("/known-issues", **issue, project_id=self.project)["id"]
        test = f"/tests/{ids['test_id']}"
        admin.when("POST", f"{test}/resolution", json={"resolution": word("resolution")}).then(200)
        admin.when("POST", f"{test}/classification", json={"classification": "product_bug"}).then(200)
        entry = {"job_id": ids["job_id"], "node_id": f"tests.test_pay.{word('quarantined')}", "reason": "flaky"}
        ids["quarantine_id"] = admin.create("/quarantine", **entry)["id"]
        emerged = FlakinessEmerged(
            test_case_id=ids["ai"],
            project_id=self.project,
            job_id=ids["job_id"],
            build_id=build,
            first_build_id=build,
            runs=4,
            baseline_runs=2,
            baseline_failing=0,
            recent_runs=2,
            recent_failing=2,
        )
        execute(self.server, RecordChangedFlakiness((emerged,)), "system:flakiness")

    def _push(self) -> None:
        """Has a host report a push."""
        admin, path = self.server.admin, f"/projects/{self.project}/rotate-webhook-secret"
        secret = admin.when("POST", path).then(200)["webhook_secret"]
        author = {"name": "Ann", "email": f"{word('author')}@example.com"}
        paths = [f"src/{word('path')}.py"]
        commit: dict[str, Any] = {
            "id": "c0ffee",
            "message": f"Fix {word('commit')}",
            "modified": paths,
            "author": author,
        }
        push = {"ref": "refs/heads/main", "after": "c0ffee", "repository": {"full_name": "acme/shop"}}
        body = json.dumps(push | {"commits": [commit], "head_commit": commit}).encode()
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={digest}"}
        headers |= {"Content-Type": "application/json"}
        self.server.client().post(f"/webhook/proj/{self.project}", data=body, headers=headers).then(200)
        self.server.wait_until_projected()
        (change,) = admin.fetch("/audit/events", project_id=self.project, type="change.received")
        self.ids["change_id"] = int(change["stream"].removeprefix("change-"))

    def sweep(self, client: Client) -> Iterator[tuple[str, Answer]]:
        """Yields the answers to every GET that the server has, about the first project and without a project."""
        for operation in OPERATIONS:
            is_read = operation.method == "GET" and operation.rule is not public and operation not in EVALS
            if is_read and operation.route not in ENDLESS:
                ids = dict.fromkeys(_names(operation), 10**6) | {"now": self.ids["position"]} | self.ids
                query = {pair[0]: pair[1] for pair in _pairs(operation.query.format(**ids))}
                if "q" in query:
                    query["q"] = STEM.lower()
                yield f"{operation}", client.get(operation.path(ids), params=query)

    def read_feed(self, client: Client, until: int) -> str:
        """Returns all messages of the feed of events up to a position, as the client gets them."""
        lines = []
        with client.get("/api/v3/events/stream", headers={"Last-Event-ID": "0"}, stream=True) as answer:
            for line in answer.iter_lines():
                lines.append(line.decode())
                if line.startswith(b"id: ") and int(line.removeprefix(b"id: ")) >= until:
                    break
        return "\n".join(lines)


def _names(operation: Operation) -> list[str]:
    """Returns the names of all ids that a path and a query of the table have."""
    others = (pair.partition("=")[2] for pair in operation.of.split())
    return [*re.findall(r"{([\w-]+)}", f"{operation.route} {operation.query}"), *others]


def _pairs(query: str) -> list[list[str]]:
    return [pair.split("=", 1) for pair in query.split("&") if pair]
