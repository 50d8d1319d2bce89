"""Messages: real ones fit the published schemas, and a receiver that never read our code verifies them."""

import base64
import contextlib
import hashlib
import hmac
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from commands.flakiness import RecordFlakyTests
from commands.nodes import ConnectNode, MarkNodeOffline, RegisterNode
from commands.pools import CreatePool
from commands.quarantine import AddToQuarantine
from domain.flakiness import TestTurnedFlaky
from domain.notifications import TYPES
from domain.webhook_signatures import build_headers, check_secret, decode_key
from projections.webhook_views import schemas
from tests.integrations.receiving import Received, receiving
from tests.workers.hooks import Hooks
from workers.deliveries.messages import MessageBuilder

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TURNED = TestTurnedFlaky(
    test_case_id=4, project_id=1, job_id=1, build_id=7, result_id=9, runs=3, flaky_runs=1, node_id="a::b", suite="s"
)


async def everything_happens(hooks: Hooks) -> None:
    for build, status in ((1, "passed"), (2, "failed"), (3, "aborted")):
        await hooks.build(build, status)
    await hooks.do(AddToQuarantine(1, 1, ("tests/a.py::test_x", "tests/a.py::test_y"), hooks.now, owner="Ann"))
    await hooks.do(RecordFlakyTests((TURNED,)))
    await hooks.do(CreatePool(1, 1, "linux", "pool-1"))
    await hooks.do(RegisterNode(1, "box", "node-1", b"", 1, tags=["gpu"]))
    await hooks.do(ConnectNode(1, "s", "1.0", "linux-amd64", "box", 8, 15.6))
    await hooks.do(MarkNodeOffline(1, "s", "silent"))


async def all_messages(hooks: Hooks, secret: str | None) -> list[Received]:
    async with receiving() as receiver:
        await hooks.register(receiver.url, TYPES, secret=secret)
        await everything_happens(hooks)
        await hooks.deliver()
        return receiver.requests


async def test_every_type_fits_its_schema(hooks: Hooks) -> None:
    published = schemas()
    messages = [request.json for request in await all_messages(hooks, None)]
    assert {message["type"] for message in messages} == set(TYPES)
    for message in messages:
        jsonschema_rs.Draft202012Validator(published[message["type"]], validate_formats=True).validate(message)
        assert "secret" not in {key for key in message["data"] if key != "configuration"}
    by_type: dict[str, Any] = {message["type"]: message for message in messages}
    assert by_type["node.offline"]["data"].items() >= {"id": 1, "name": "box", "status": "offline"}.items()
    assert by_type["test.flaky"]["data"]["node_id"] == "a::b"
    entries = [message["data"]["node_id"] for message in messages if message["type"] == "test.quarantined"]
    assert sorted(entries) == ["tests/a.py::test_x", "tests/a.py::test_y"]
    assert len({message["id"] for message in messages}) == len(messages)


async def test_nodes_are_told_of_to_their_pools_project(hooks: Hooks) -> None:
    async with receiving() as of_project, receiving() as of_another, receiving() as of_all:
        for receiver, project_id in ((of_project, 1), (of_another, 2), (of_all, None)):
            await hooks.register(receiver.url, ("node.offline",), project_id=project_id)
        await everything_happens(hooks)
        await hooks.deliver()
        assert [len(receiver.requests) for receiver in (of_project, of_another, of_all)] == [1, 0, 1]
        assert of_all.requests[0].json["project_id"] is None


@pytest.mark.parametrize("secret", [SECRET, "s3cr3t", "whsec_" + base64.b64encode(b"k" * 64).decode(), "ünïcode"])
async def test_the_reference_library_verifies_them(hooks: Hooks, secret: str) -> None:
    """Its own reading of `whsec_` secrets; others are handed to it as the bytes that they are."""
    library = Webhook(secret if secret.startswith("whsec_") else base64.b64encode(secret.encode()).decode())
    hooks.now = datetime.now(UTC)  # it refuses old timestamps
    requests = await all_messages(hooks, secret)
    assert len(requests) == 12
    for request in requests:
        assert library.verify(request.body, dict(request.headers)) == request.json
        hexadecimal = hmac.new(secret.encode(), request.body, hashlib.sha256).hexdigest()
        assert request.headers["X-Testhide-Signature-256"] == f"sha256={hexadecimal}"
        with pytest.raises(WebhookVerificationError):
            library.verify(request.body + b" ", dict(request.headers))
        if secret.startswith("whsec_"):
            scope: dict[str, Any] = {"secret": secret, "body": request.body, "headers": dict(request.headers)}
            exec(documented_receiver(), scope)  # noqa: S102 (of our own page)
            assert scope["message"] == request.json


def documented_receiver() -> str:
    page = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
    return "\n".join(line.strip() for line in page.splitlines() if line.startswith("    "))


async def test_without_a_secret_nothing_is_signed(hooks: Hooks) -> None:
    for request in await all_messages(hooks, None):
        assert not {"webhook-signature", "X-Testhide-Signature-256"} & request.headers.keys()


async def test_each_attempt_has_a_signature_of_its_time(hooks: Hooks) -> None:
    async with receiving() as receiver:
        await hooks.register(receiver.url, ("build.finished",), secret=SECRET)
        receiver.answers.append((500, {}, b""))
        await hooks.build(1, "passed")
        await hooks.deliver()
        hooks.later(6)
        await hooks.deliver()
        first, second = receiver.requests
        assert first.body == second.body
        stamps = [int(request.headers["webhook-timestamp"]) for request in (first, second)]
        assert stamps[1] - stamps[0] == 6


def test_a_known_signature() -> None:
    """The example of the Standard Webhooks specification's libraries."""
    at = datetime.fromtimestamp(1_614_265_330, UTC)
    made = build_headers(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", "ping", at, b'{"test": 2432232314}')
    assert made["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["whsec_x", "whsec_a b=", "whsec_ä"])
def test_what_is_no_base64(secret: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        decode_key(secret)


@pytest.mark.parametrize(("length", "good"), [(0, False), (23, False), (24, True), (64, True), (65, False)])
def test_how_long_a_key_is(length: int, good: bool) -> None:
    secret = "whsec_" + base64.b64encode(b"k" * length).decode()
    with contextlib.nullcontext() if good else pytest.raises(ValueError, match=f"{length} bytes"):
        check_secret(secret)


async def test_a_lost_event_is_not_taken_for_the_next_one(hooks: Hooks) -> None:
    await hooks.build(1, "passed")
    head = await hooks.parts.log.read_head()
    async with hooks.parts.pool.connection() as connection:
        await connection.execute("DELETE FROM stored_events WHERE notification_id = %s", (head - 1,))
    messages = MessageBuilder(hooks.parts.log)
    for position in (head - 1, head + 1):
        with pytest.raises(LookupError, match=f"no event at position {position}"):
            await messages.fetch_event(position)
