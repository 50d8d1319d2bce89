"""The comparison of read models with the log: what somebody changed by hand is an alarm until it is mended."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import pytest

from commands.auth import CreateApiToken
from commands.build_actions import DeleteBuild
from commands.builds import FinishExternalBuild, StartBuild
from commands.handler import CommandContext, Handler
from commands.identity_providers import CreateIdentityProvider, LinkIdentity
from commands.jobs import CreateJob
from commands.known_issues import CreateKnownIssue
from commands.nodes import RegisterNode, RotateNodeToken
from commands.pools import CreatePool
from commands.projections import DismissEvent
from commands.projects import AdmitMember, CreateProject
from commands.results import AddCases, NewCases
from commands.triggers import SetTriggers
from commands.users import DeleteUser, RegisterUser
from commands.webhooks import RegisterWebhook
from domain.builds import Verdict
from domain.triggers import Triggers
from domain.users import Role
from domain.webhooks import WebhookRegistered
from projections.audit_trail import TrailRow
from projections.auth import ApiTokenRow, UserRow
from projections.builds import BuildRow
from projections.engine.read_your_writes import ProjectionWaiter
from projections.identity_providers import IdentityProviderRow, IdentityRow
from projections.known_issues import KnownIssueRow
from projections.nodes import NodeRow
from projections.pools import PoolRow
from projections.projects import MemberRow, ProjectRow
from projections.rebuild.rebuild import build_staging
from projections.rebuild.switch import switch
from projections.registry import PROJECTIONS
from projections.results_cases import TestCaseRow
from projections.triggers import TriggerRow
from store.clock import utcnow
from store.tables import log_positions
from store.tables.alarms import fetch_alarms
from testhide.processes import Core
from tests.projections.claims import projecting
from tests.projections.claims import serve as make_tables
from workers.deliveries import endpoints
from workers.deliveries.planner import NAME as PLANNER
from workers.flakiness import FlakinessWatch
from workers.loops.outages import tolerate_outages
from workers.read_models import ReadModelCheck

OPERATOR = CommandContext("system:tests")


@dataclass
class Accounts:
    """A server with an administrator, a developer with a token and a project, a node, an identity provider, and
    somebody who was deleted.
    """

    parts: Core
    waiter: ProjectionWaiter
    check: ReadModelCheck

    async def happen(self) -> None:
        handler = Handler(self.parts.log, utcnow)
        admin, developer, former = 1, 2, 3
        roles: dict[int, Role] = {admin: "admin", developer: "developer", former: "developer"}
        for user_id, role in roles.items():
            user = RegisterUser(user_id, f"{user_id}@example.com", role, "a hash", f"email-{user_id}")
            await handler.execute(user, OPERATOR)
        await handler.execute(CreateApiToken(1, developer, "laptop", b"hash"), OPERATOR)
        await handler.execute(CreateProject(1, "Shop", developer, (("shop", "claim-of-shop"),), b""), OPERATOR)
        await handler.execute(AdmitMember(1, former, "write"), OPERATOR)
        node = RegisterNode(1, title="builder", claim="node-builder", token_hash=b"hash", pool_id=None, max_parallel=1)
        await handler.execute(node, OPERATOR)
        await handler.execute(RotateNodeToken(1, b"new hash", utcnow() + timedelta(days=1)), OPERATOR)
        await handler.execute(CreatePool(1, 1, "Linux", "pool-linux"), OPERATOR)
        provider = CreateIdentityProvider(1, "Company", "https://idp", "idp", "https://idp/sso", ["a certificate"])
        await handler.execute(provider, OPERATOR)
        await handler.execute(LinkIdentity(developer, 1, "identity-dev", "dev"), OPERATOR)
        await handler.execute(LinkIdentity(former, 1, "identity-former", "former"), OPERATOR)
        await handler.execute(DeleteUser(former, admin), OPERATOR)
        await handler.execute(CreateJob(1, 1, "Unit tests"), OPERATOR)
        await handler.execute(SetTriggers(1, Triggers(branches=["main"])), OPERATOR)
        verdicts: dict[int, Verdict] = {1: "failed", 2: "passed", 3: "failed"}
        for build_id, verdict in verdicts.items():
            await handler.execute(StartBuild(build_id, 1, external=True), OPERATOR)
            await handler.execute(FinishExternalBuild(build_id, verdict), OPERATOR)
        await handler.execute(DeleteBuild(3), OPERATOR)
        await handler.execute(AddCases(NewCases(1, 0, 1, ["a", "b"], ["s", "s"])), OPERATOR)
        await handler.execute(CreateKnownIssue(1, 1, "Timeout", "infra", "pattern", "timed out"), OPERATOR)
        assert await self.waiter.wait(await self.parts.log.read_head())

    async def execute(self, statement: str) -> None:
        async with self.parts.pool.connection() as connection:
            await connection.execute(statement.encode())

    async def alarms(self) -> list[str]:
        async with self.parts.pool.connection() as connection:
            return await fetch_alarms(connection)


@pytest.fixture
async def accounts(parts: Core) -> AsyncIterator[Accounts]:
    await make_tables(parts, PROJECTIONS)
    async with projecting(parts, PROJECTIONS) as waiter:
        made = Accounts(parts, waiter, ReadModelCheck(parts.conninfo, parts.pool, parts.log, waiter))
        await made.happen()
        yield made


CHANGES = (
    (f"UPDATE {UserRow.table} SET role = 'admin'", "auth", "users_v2: 1 changed"),
    (f"UPDATE {UserRow.table} SET active = false WHERE role = 'admin'", "auth", "users_v2: 1 changed"),
    (
        f"INSERT INTO {ApiTokenRow.table} SELECT 7, user_id, name, 'mine', now(), scopes FROM {ApiTokenRow.table}",
        "auth",
        "api_tokens_v2: 1 added",
    ),
    (f"DELETE FROM {ApiTokenRow.table}", "auth", "api_tokens_v2: 1 lost"),
    (f"INSERT INTO {MemberRow.table} VALUES (1, 77, 'admin')", "projects", "project_members_v1: 1 added"),
    (f"UPDATE {NodeRow.table} SET token_hash = 'mine'", "nodes", f"{NodeRow.table}: 1 changed"),
    (f"UPDATE {NodeRow.table} SET old_token_hash = 'mine'", "nodes", f"{NodeRow.table}: 1 changed"),
    (f"UPDATE {NodeRow.table} SET old_token_until = '2099-01-01'", "nodes", f"{NodeRow.table}: 1 changed"),
    (f"UPDATE {TriggerRow.table} SET starts_by_changes = false", "triggers", f"{TriggerRow.table}: 1 changed"),
    (f"UPDATE {PoolRow.table} SET shared = true", "pools", f"{PoolRow.table}: 1 changed"),
    (f"UPDATE {ProjectRow.table} SET sealed_webhook_secret = 'x'", "projects", f"{ProjectRow.table}: 1 changed"),
    (
        f"UPDATE {IdentityProviderRow.table} SET certificates = '[\"mine\"]'",
        "identity_providers",
        f"{IdentityProviderRow.table}: 1 changed",
    ),
    (
        f"UPDATE {IdentityProviderRow.table} SET default_role = 'admin'",
        "identity_providers",
        f"{IdentityProviderRow.table}: 1 changed",
    ),
    (f"UPDATE {IdentityRow.table} SET user_id = 1", "identity_providers", f"{IdentityRow.table}: 1 changed"),
    (f"UPDATE {KnownIssueRow.table} SET value = '.*'", "known_issues", f"{KnownIssueRow.table}: 1 changed"),
    (f"UPDATE {BuildRow.table} SET status = 'passed'", "builds", "1 builds are not as in the log, the first 1"),
    (f"UPDATE {BuildRow.table} SET group_id = 1 WHERE id = 2", "builds", "log, the first 2"),
    (f"""UPDATE {BuildRow.table} SET trigger = '{{"change_id": 7}}'""", "builds", "2 builds are not"),
    (f"DELETE FROM {BuildRow.table} WHERE id = 2", "builds", "1 builds are not as in the log, the first 2"),
    (
        f"UPDATE {TestCaseRow.table} SET node_id = CASE id WHEN 1 THEN 'b' ELSE 'a' END",
        "results",
        "2 test cases are not as in the log, the first 1",
    ),
    (f"DELETE FROM {TestCaseRow.table} WHERE id = 2", "results", "1 test cases are not as in the log, the first 2"),
    (f"DELETE FROM {TrailRow.table} WHERE position = 3", "trail", "trail_v1: 1 different, the first at position 3"),
    (f"UPDATE {TrailRow.table} SET actor = 0 WHERE position > 4", "trail", "different, the first at position 5"),
    (
        f"INSERT INTO {TrailRow.table} SELECT * FROM {TrailRow.table} WHERE position = 2",
        "trail",
        "trail_v1: 1 different, the first at position 2",
    ),
)
"""A statement that changes a table, the read model of the table, and the difference that its alarm names."""


def in_rounds(changes: Sequence[tuple[str, str, str]]) -> list[list[tuple[str, str, str]]]:
    """Divides the changes into rounds, in which each read model is changed once at most."""
    rounds: list[list[tuple[str, str, str]]] = []
    earlier: Counter[str] = Counter()
    for change in changes:
        number = earlier[change[1]]
        earlier[change[1]] += 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(change)
    return rounds


@pytest.mark.parametrize("changes", in_rounds(CHANGES))
async def test_what_was_changed_by_hand_is_an_alarm(accounts: Accounts, changes: list[tuple[str, str, str]]) -> None:
    for statement, _, _ in changes:
        await accounts.execute(statement)
    assert await accounts.check.sweep()
    alarms = await accounts.alarms()
    assert len(alarms) == len(changes)
    for _, name, difference in changes:
        (alarm,) = [alarm for alarm in alarms if alarm.startswith(f"the read model {name} differs from the log (")]
        assert difference in alarm
        assert alarm.endswith(f"run `testhide projections rebuild {name} --switch`")


async def test_a_changed_endpoint_or_a_made_up_replay_is_an_alarm(accounts: Accounts) -> None:
    handler = Handler(accounts.parts.log, utcnow)
    webhook = RegisterWebhook(1, 1, "https://a.example", ("build.failed",), sealed_secret=b"secret")
    await handler.execute(webhook, OPERATOR)
    assert not await accounts.check.sweep_endpoints(), "the planner has not read it"
    await plan_deliveries(accounts.parts)
    assert not await accounts.check.sweep_endpoints()
    for change, undo, says in (
        ("UPDATE webhook_endpoints SET url = 'x'", "UPDATE webhook_endpoints SET url = 'https://a.example'", ": url)"),
        (
            "UPDATE webhook_endpoints SET sealed_secret = 'x'",
            "UPDATE webhook_endpoints SET sealed_secret = 'secret'",
            "",
        ),
        (
            "INSERT INTO webhook_endpoints (id, events, active) VALUES (9, '{}', true)",
            "DELETE FROM webhook_endpoints WHERE id = 9",
            "(9: made up)",
        ),
        (
            "INSERT INTO webhook_replays VALUES ('again', 1, 0, 9)",
            "DELETE FROM webhook_replays",
            "'again' of webhook 1",
        ),
    ):
        await accounts.execute(change)
        assert await accounts.check.sweep_endpoints()
        (alarm,) = await accounts.alarms()
        assert says in alarm
        await accounts.execute(undo)
        assert not await accounts.check.sweep_endpoints()
        assert await accounts.alarms() == []


async def plan_deliveries(parts: Core) -> None:
    """Does as the planner with the events about endpoints."""
    async with parts.pool.connection() as connection:
        for recorded in await parts.log.read(0, 1_000, [WebhookRegistered.name]):
            await endpoints.apply(connection, recorded.event, utcnow())
        await log_positions.move_position(connection, PLANNER, await parts.log.read_head())


async def test_an_alarm_ends_with_a_rebuild(accounts: Accounts) -> None:
    assert not await accounts.check.sweep()
    assert await accounts.alarms() == []
    await accounts.execute(f"DELETE FROM {UserRow.table}")
    await accounts.execute(f"DELETE FROM {TrailRow.table}")
    assert await accounts.check.sweep()
    assert len(await accounts.alarms()) == 2
    chosen = [projection for projection in PROJECTIONS if projection.name in ("auth", "trail")]
    await build_staging(accounts.parts.conninfo, accounts.parts.log, chosen)
    await switch(accounts.parts.conninfo, accounts.parts.log, chosen)
    assert not await accounts.check.sweep()
    assert await accounts.alarms() == []


async def test_the_trail_is_compared_in_turn(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.read_models.TRAIL_EVENTS", 2)
    await accounts.execute(f"DELETE FROM {TrailRow.table} WHERE position = 5")
    assert [await accounts.check.sweep() for _ in range(4)] == [False, False, True, True]


async def test_what_was_dismissed_from_the_trail_is_not_missed(accounts: Accounts) -> None:
    await accounts.execute(f"DELETE FROM {TrailRow.table} WHERE position = 3")
    handler = Handler(accounts.parts.log, utcnow)
    await handler.execute(DismissEvent("trail", 3, "cannot be read", "ann"), OPERATOR)
    assert not await accounts.check.sweep()


async def test_what_is_broken_or_has_parked_events_is_not_compared(accounts: Accounts) -> None:
    await accounts.execute(f"DROP TABLE {UserRow.table}")
    await accounts.execute("INSERT INTO parked_events VALUES ('projects', 1, 2, 'project-1', 'poison')")
    await accounts.execute(f"DELETE FROM {MemberRow.table}")
    assert not await accounts.check.sweep()


async def test_a_broken_read_model_leads_no_worker_astray(accounts: Accounts) -> None:
    parts = accounts.parts
    watch = FlakinessWatch(parts.pool, parts.log, Handler(parts.log, utcnow))
    assert not await watch.record_next_batch()
    await accounts.execute("UPDATE projection_positions SET position = 1000000000 WHERE name = 'results'")
    assert not await watch.record_next_batch()
    async with parts.pool.connection() as connection, connection.transaction():
        position = await log_positions.lock_position(connection, "flakiness")
    assert position is not None
    assert position <= await parts.log.read_head()
    async with tolerate_outages("tests"):
        await accounts.execute("SELECT FROM a_lost_table")
