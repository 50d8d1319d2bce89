"""The fields that events changed: the differences between the states of a stream before and after each event.

SECRET is shown in place of secrets. `entries.py` limits how many events of a stream are folded.
"""

import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from domain.artifacts import ARTIFACT
from domain.audit import AUDIT_READ, RESTORES, ROWS, SIGNING_KEY
from domain.auth import API_TOKEN, SESSION
from domain.autoscaling import AUTOSCALING
from domain.build_groups import BUILD_GROUP
from domain.builds import BUILD, Build, status_of
from domain.changes import CHANGE, DEFERRALS
from domain.claims import CLAIM
from domain.classification_rules import CLASSIFICATION_RULES
from domain.core.events import Category, Event, Recorded
from domain.dispatch import LEADER
from domain.divisions import DIVISION
from domain.docker_agents import DOCKER_AGENT
from domain.endpoints import mask_url
from domain.evals import EVALUATION
from domain.flakiness import FLAKINESS
from domain.gitops import GITOPS
from domain.identity_providers import IDENTITY_PROVIDER, IdentityProvider
from domain.inquiries import INQUIRY
from domain.jira import JIRA
from domain.jobs import JOB
from domain.known_issues import KNOWN_ISSUE
from domain.node_commands import NODE_COMMAND
from domain.nodes import NODE, NodeRegistered, NodeTokenRotated
from domain.pools import POOL
from domain.projects import PROJECT, ProjectCreated, WebhookSecretRotated
from domain.quarantine import QUARANTINE
from domain.scm import SCM_ENDPOINT
from domain.teams import CARD, CHANNEL, CHANNEL_LIST
from domain.templates import TEMPLATE
from domain.tickets import TICKET
from domain.token_quota import TOKEN_USE
from domain.triage import TRIAGE
from domain.users import USER, UserPasswordSet, UserRegistered
from domain.vcenter import VCENTER
from domain.vcenter_operations import VCENTER_OPERATION
from domain.vcenter_vms import VCENTER_VMS
from domain.webhooks import DELIVERY, WEBHOOK, WEBHOOK_LIST, Webhook
from projections.audit_view.rule_matches import RuleMatch

SECRET = "(secret)"  # noqa: S105 - shown in place of a secret
MAX_CHANGES = 100
"""Largest number of changed fields that are shown for an event."""
MAX_TEXT = 500
"""Largest number of characters that are shown of a text."""
MAX_ITEMS = 20
"""Largest number of items that are shown of a list."""

CATEGORIES: Mapping[str, Category[Any]] = {
    category.prefix: category
    for category in (
        *(API_TOKEN, ARTIFACT, AUDIT_READ, BUILD, CLAIM, JOB, KNOWN_ISSUE, LEADER, NODE, NODE_COMMAND, POOL, PROJECT),
        *(QUARANTINE, SESSION, RESTORES.category, ROWS.category, SIGNING_KEY.category, TEMPLATE, TRIAGE, USER),
        *(WEBHOOK, WEBHOOK_LIST, DELIVERY, FLAKINESS, BUILD_GROUP, DIVISION, CLASSIFICATION_RULES),
        *(CHANGE, DEFERRALS, CHANNEL, CHANNEL_LIST, CARD, IDENTITY_PROVIDER, SCM_ENDPOINT, GITOPS, JIRA, TICKET),
        *(AUTOSCALING, DOCKER_AGENT, EVALUATION),
        *(VCENTER, VCENTER_OPERATION, VCENTER_VMS),
        *(INQUIRY, TOKEN_USE),
    )
}

BLANK: tuple[Any, ...] = (None, "", [], False)
"""Values that do not count as a change when a field first appears."""

_HIDDEN = re.compile(r"(^|_)(secret|password|token|hash)(_|$)", re.IGNORECASE)
_INTERNAL = {
    "assigned_at",
    "claim",
    "claimed_at",
    "commit_number",
    "created_in",
    "failing_jobs",
    "has_old_token",
    "is_by_link",
    "shard_of",
    "link",
    "password_hash",
    "queued",
    "read_id",
    "results_version",
    "scheduled_since",
    "sealed_webhook_secret",
    "stopped_jobs",
    "written_at",
    *Event.__struct_fields__,
}
"""Fields of states that are not shown: they mean nothing to readers, or repeat another field."""


class Change(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """A field that an event changed."""

    field: str
    """Name of the field, with dots where values are nested."""
    before: Any
    """Value before the event."""
    after: Any
    """Value after the event."""


class _Secret(NamedTuple):
    value: Any
    shown: str = SECRET


def add_matches(changes: Sequence[Change], matches: Sequence[RuleMatch]) -> list[Change]:
    """Returns `changes`, followed by the changes of each match: the matched result's classification and, if a known
    issue matched, its known issue. If there are more than MAX_CHANGES, leaves out the rest and says so in a last entry.
    """
    classified = (
        change
        for match in matches[:MAX_CHANGES]
        for change in (
            Change(f"results.{match.result_id}.classification", None, match.classification),
            Change(f"results.{match.result_id}.known_issue_id", None, match.known_issue_id),
        )
        if change.after  # classification rules match without a known issue
    )
    total = len(changes) + len(matches) + sum(match.known_issue_id != 0 for match in matches)
    return _cut([*changes, *classified], total)


def find_category(stream: str) -> Category[Any] | None:
    """Returns the category of a stream, by the prefix of its name. Returns None for a stream without a state, such as
    `results-7`.
    """
    parts = stream.split("-")
    prefixes = ("-".join(parts[:number]) for number in range(len(parts) - 1, 0, -1))
    return next((CATEGORIES[prefix] for prefix in prefixes if prefix in CATEGORIES), None)


class StreamFolder:
    """Folds the events of one stream. Collects the fields that were changed by the events with the versions `wanted`.

    Pass the events to `apply` in order. For the stream of a result, `matches` are the rule matches of the result, in
    the order of the log.
    """

    def __init__(self, stream: str, wanted: Collection[int], matches: Iterable[RuleMatch] = ()) -> None:
        category = find_category(stream)
        assert category is not None, f"nothing is folded from {stream}"
        self._evolve = category.evolve
        self._initial = self._state = category.initial
        self._id_field = f"{category.prefix.rpartition('-')[2]}_id"
        self._wanted = wanted
        self._matches = deque(matches)
        self.changes: dict[int, list[Change]] = {}

    def apply(self, events: Iterable[Recorded]) -> None:
        for recorded in events:
            while self._matches and self._matches[0].position < recorded.position:
                self._state = self._matches.popleft().classify(self._state)
            before, self._state = self._state, self._evolve(self._state, recorded.event)
            if recorded.version in self._wanted:
                changes = [
                    *_difference(self._fields_of(before), self._fields_of(self._state)),
                    *_changes_outside_state(recorded.event),
                ]
                self.changes[recorded.position] = _shown(changes, self._id_field, recorded.erased)

    def _fields_of(self, state: Any) -> dict[str, Any]:
        """Returns dotted name -> value for the fields of a state; an empty dict for the initial state."""
        return {} if state == self._initial else flatten(state)


def flatten(state: Any) -> dict[str, Any]:
    """Returns dotted name -> value for the fields of a state: `env.HOST`. A secret becomes a `_Secret`, which can be
    compared but is not shown.
    """
    match state:
        case None:
            return {}
        case Build():
            fields = {name: value for name, value in _fields("", state) if value is not None}
            return {**dict(_fields("", state.queued)), **fields, "status": status_of(state)}  # type: ignore[arg-type]
        case Webhook():
            return {**dict(_fields("", state)), "url": _Secret(state.url, mask_url(state.url))}
        case IdentityProvider():
            urls = {"sso_url": state.sso_url, "metadata_url": state.metadata_url}
            masked = {name: _Secret(url, mask_url(url)) for name, url in urls.items() if url is not None}
            return {**dict(_fields("", state)), **masked}
        case msgspec.Struct():
            return dict(_fields("", state))
        case _:
            return {"state": state}


def _fields(prefix: str, struct: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    for name in struct.__struct_fields__:
        if name not in _INTERNAL:
            yield from _flat(f"{prefix}{name}", name, getattr(struct, name))


def _flat(name: str, last: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) for `value`, or for each of its parts if they are shown as separate fields. `last` is
    the last part of `name`.
    """
    match value:
        case msgspec.Struct():
            yield from _fields(f"{name}.", value)
        case Mapping():
            for key, item in value.items():
                yield from _flat(f"{name}.{key}", str(key), item)
        case _ if isinstance(value, bytes) or (isinstance(value, str) and _HIDDEN.search(last)):
            yield name, _Secret(value) if value else None
        case list() | tuple() if value and isinstance(value[0], msgspec.Struct):
            yield name, len(value)
        case set() | frozenset():
            yield name, sorted(value)
        case tuple():
            yield name, list(value)
        case _:
            yield name, value


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for field in dict.fromkeys([*after, *before]):
        was, now = before.get(field), after.get(field)
        # A new field with a blank value is not a change.
        if was != now and not (was is None and now in BLANK):
            yield Change(field, was, now)


def _changes_outside_state(event: Event) -> Iterator[Change]:
    """Yields changes of fields that are in no state, because no command needs them."""
    match event:
        case ProjectCreated():
            yield Change("slug", None, event.slug)
            yield Change("webhook_secret", None, SECRET)
        case WebhookSecretRotated():
            yield Change("webhook_secret", SECRET, SECRET)
        case NodeRegistered():
            yield Change("agent_token", None, SECRET)
        case NodeTokenRotated():
            yield Change("agent_token", SECRET, SECRET)
        case UserRegistered() if event.password_hash:
            yield Change("password", None, SECRET)
        case UserPasswordSet():
            yield Change("password", SECRET, SECRET)
        case _:
            return


def _shown(changes: Iterable[Change], id_field: str, erased: bool) -> list[Change]:
    # Leave out the id, which is in the stream's name, and the blank fields of an erased event, whose values are lost.
    kept = [change for change in changes if change.field != id_field and not (erased and change.after in BLANK)]
    return _cut(
        [Change(change.field, _plain(change.before), _plain(change.after)) for change in kept[:MAX_CHANGES]], len(kept)
    )


def _cut(changes: list[Change], total: int) -> list[Change]:
    """Cuts a list of changes to MAX_CHANGES. If `total`, the number of all changes, is larger, adds an entry that says
    how many are left out.
    """
    if total <= MAX_CHANGES:
        return changes
    return [*changes[:MAX_CHANGES], Change("…", None, f"and {total - MAX_CHANGES:,} more")]


def _plain(value: Any) -> Any:
    match value:
        case _Secret():
            return value.shown
        case str() if len(value) > MAX_TEXT:
            return f"{value[:MAX_TEXT]}… ({len(value):,} characters)"
        case list() if len(value) > MAX_ITEMS:
            return [*(_plain(item) for item in value[:MAX_ITEMS]), f"… and {len(value) - MAX_ITEMS:,} more"]
        case list():
            return [_plain(item) for item in value]
        case _:
            return value
