"""Rules that must hold after each round of faults. Each check returns or yields a sentence for every violation."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from api.live.build_feed import format_line
from domain.builds import BuildAssigned, BuildCommented, BuildEvent, BuildFinished, BuildQueued, BuildStarted
from domain.core.events import Recorded
from domain.notifications import message_id, notifications_of
from store.tables.build_logs import BuildLogs, Line
from testhide.processes import Core
from tests.e2e.rules import LogRules
from tests.faults.client import RetryingClient
from tests.faults.load import WEBHOOK_EVENTS, Order, OrderingKey, Receiver
from tests.faults.readers import BuildReader, EventReader

AGENT_LINE_PREFIX = "==> "
MISSING_LINES_SUFFIX = " lines are missing: the agent's disk was full"
PAGE_LINES = 10_000


@dataclass
class BuildEnd:
    """The end of a build, and its number of attempts, from the log."""

    build_id: int
    finished: BuildFinished
    attempts: int
    """0 if it was never assigned to an agent."""


@dataclass
class LogState:
    """State that the checks keep across rounds: all that they read from the log."""

    project: int
    position: int = 0
    """Position up to which the log was read."""
    build_rules: LogRules = field(init=False)
    expected_messages: defaultdict[OrderingKey, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Ids of the webhook messages that must be delivered, in order."""
    positions: set[int] = field(default_factory=set)
    versions: Counter[str] = field(default_factory=Counter)
    """Last version of each stream."""

    def __post_init__(self) -> None:
        self.build_rules = LogRules(self.project)

    async def read_new_events(self, parts: Core) -> tuple[list[Recorded], list[str]]:
        """Reads the events since the last call. Returns them, and the rules that they violate."""
        events = await parts.log.read(self.position, 1_000_000)
        broken = []
        for recorded in events:
            # A killed database skips positions, but never a version of a stream.
            self.versions[recorded.stream] += 1
            if recorded.version != self.versions[recorded.stream]:
                broken.append(f"{recorded.stream} has version {recorded.version} at position {recorded.position}")
        try:
            self.build_rules.check(events)
        except AssertionError as error:
            broken.append("; ".join([f"the events of a build: {error}", *getattr(error, "__notes__", ())]))
        for recorded in events:
            if isinstance(recorded.event, BuildEvent):
                for notification in notifications_of(recorded.event):
                    message = message_id(recorded.position, notification.type, notification.item)
                    for hook, types in WEBHOOK_EVENTS.items():
                        is_its = hook != "project" or recorded.event.project_id == self.project
                        if is_its and notification.type in types:
                            self.expected_messages[hook, recorded.event.build_id].append(message)
        self.positions.update(recorded.position for recorded in events)
        self.position = max(self.positions, default=0)
        return events, broken

    def check_event_reader(self, reader: EventReader, events: Sequence[Recorded]) -> Iterator[str]:
        """Checks that a reader of all events received each of `events` once and in order."""
        logged = [(recorded.position, recorded.event.name) for recorded in events]
        received = reader.take_events(self.position)
        if received != logged:
            index = _find_difference(received, logged)
            index = len(received) if index is None else index
            yield f"a reader of all events got {received[index : index + 3]} instead of {logged[index : index + 3]}"

    def check_acknowledged(self, client: RetryingClient) -> Iterator[str]:
        """Checks that the log has an event at every position that an answer named."""
        for position, request in client.acknowledged:
            if position not in self.positions:
                yield f"{request} was acknowledged at position {position}, where the log has nothing"

    def count_undelivered(self, receiver: Receiver) -> int:
        return sum(len(messages) - len(receiver.received[key]) for key, messages in self.expected_messages.items())

    def check_deliveries(self, receiver: Receiver, *, is_complete: bool) -> Iterator[str]:
        """Checks that messages arrived in the order of the log; with `is_complete`, that none is missing."""
        for key, expected in self.expected_messages.items():
            received = receiver.received[key]
            if received != expected[: len(received)]:
                yield f"{key}: messages arrived as {received}, expected {expected}"
            elif is_complete and len(received) < len(expected):
                yield f"{key}: never delivered: {expected[len(received) :]}"
        if unknown := receiver.received.keys() - self.expected_messages.keys():
            yield f"messages about builds that do not exist: {sorted(unknown)}"


def check_recorded_once(order: Order, events: Sequence[Recorded]) -> Iterator[str]:
    """Checks that the log holds the build and each accepted comment exactly once."""
    token = order.plan.token
    queued = [
        recorded.event
        for recorded in events
        if isinstance(recorded.event, BuildQueued) and recorded.event.branch == token
    ]
    if len(queued) != 1:
        yield f"{token} was started once and is in the log {len(queued)} times: {order.start_answer}"
    comments = Counter(
        recorded.event.text
        for recorded in events
        if isinstance(recorded.event, BuildCommented) and recorded.event.text.endswith(token)
    )
    if sorted(comments.elements()) != sorted(order.accepted_comments):
        yield f"{token}: accepted comments {order.accepted_comments}, in the log {dict(comments)}"


def find_end(token: str, events: Sequence[Recorded]) -> BuildEnd | None:
    """Returns the end of the build with this token, or None if the events do not hold it."""
    build = next(
        (
            recorded.event.build_id
            for recorded in events
            if isinstance(recorded.event, BuildQueued) and recorded.event.branch == token
        ),
        None,
    )
    of_build = [item.event for item in events if isinstance(item.event, BuildEvent) and item.event.build_id == build]
    attempts = max((event.attempt for event in of_build if isinstance(event, BuildAssigned | BuildStarted)), default=0)
    finished = next((event for event in of_build if isinstance(event, BuildFinished)), None)
    return None if finished is None else BuildEnd(finished.build_id, finished, attempts)


def check_verdict(order: Order, end: BuildEnd, *, disk_was_full: bool) -> Iterator[str]:
    """Checks that the build ended as planned, or otherwise for a reason that the round contains."""
    plan, finished = order.plan, end.finished
    found = (finished.status, finished.reason, finished.exit_code, finished.detail)
    was_stopped = order.stop_answer is not None and order.stop_answer.carried_out
    if was_stopped != (finished.reason == "stopped_by_user"):
        yield f"{plan.token}: the stop was answered with {order.stop_answer}, the build ended as {found}"
    match finished.reason:
        case "stopped_by_user":
            return
        case "agent_lost" | "not_acknowledged":
            if end.attempts < 3:
                yield f"{plan.token}: given up after {end.attempts} attempts: {found}"
        case _ if disk_was_full and finished.status == "failed":
            return  # the build may have met the full disk
        case _:
            if (finished.status, finished.exit_code) != plan.verdict:
                yield f"{plan.token}: ended as {found} instead of {plan.verdict}"


def ended_by_plan(end: BuildEnd) -> bool:
    return end.finished.reason not in ("stopped_by_user", "agent_lost", "not_acknowledged")


async def check_log(logs: BuildLogs, order: Order, end: BuildEnd, *, disk_was_full: bool) -> list[str]:
    """Checks the log of each attempt for missing, repeated or reordered lines; the last must be complete and sealed."""
    broken: list[str] = []
    for attempt in range(1, end.attempts + 1):
        lines = [line.text for line in await read_log(logs, end.build_id, attempt)]
        output = [line for line in lines if not line.startswith(AGENT_LINE_PREFIX)]
        missing = sum(
            int(line.split()[1])
            for line in lines
            if line.startswith(AGENT_LINE_PREFIX) and line.endswith(MISSING_LINES_SUFFIX)
        )
        is_complete = attempt == end.attempts and ended_by_plan(end) and not disk_was_full
        wanted = order.plan.output
        if is_complete and output != wanted:
            broken.append(f"{order.plan.token}, attempt {attempt}: {_describe_difference(output, wanted)}")
        elif missing and disk_was_full:
            if not _is_subsequence(output, wanted):
                broken.append(f"{order.plan.token}, attempt {attempt}: {_describe_difference(output, wanted)}")
        elif output != wanted[: len(output)] and not disk_was_full:
            broken.append(f"{order.plan.token}, attempt {attempt}: {_describe_difference(output, wanted)}")
    finished = end.finished
    if end.attempts:
        damage = await logs.find_damage(end.build_id, end.attempts, finished.log_lines, finished.log_digest)
        broken += [f"{order.plan.token}: its log of {finished.log_lines} lines: {damage}"] if damage else []
    if ended_by_plan(end) and finished.log_lines != await logs.count_lines(end.build_id, end.attempts):
        broken.append(f"{order.plan.token}: lines were stored after its end")
    return broken


async def check_readers(logs: BuildLogs, order: Order, end: BuildEnd) -> list[str]:
    """Checks that each reader of the build's stream received every line of the log once and in order."""
    return [violation for reader in order.readers for violation in await _check_reader(logs, reader, end)]


async def _check_reader(logs: BuildLogs, reader: BuildReader, end: BuildEnd) -> list[str]:
    if not reader.done:
        return [f"build {end.build_id}: a reader never received its end"]
    broken = []
    if reader.status != end.finished.status:
        broken.append(f"build {end.build_id}: a reader got status {reader.status} instead of {end.finished.status}")
    if [message[:2] for message in reader.messages] != sorted({message[:2] for message in reader.messages}):
        broken.append(f"build {end.build_id}: a reader got lines twice or in another order")
    for attempt in range(1, end.attempts + 1):
        received = [text for number, _, text in reader.messages if number == attempt]
        logged = [format_line(line) for line in await read_log(logs, end.build_id, attempt)]
        if not received and attempt < end.attempts:
            continue  # the reader connected during a later attempt
        if not ended_by_plan(end) and attempt == end.attempts:
            # Lines that were in flight when the build was stopped may be stored after its readers received its end.
            logged = logged[: max(len(received), end.finished.log_lines)]
        if received != logged:
            broken.append(
                f"build {end.build_id}, attempt {attempt}: a reader got {_describe_difference(received, logged)}"
            )
    return broken


async def read_log(logs: BuildLogs, build: int, attempt: int) -> list[Line]:
    lines: list[Line] = []
    while more := await logs.read(build, attempt, len(lines), PAGE_LINES):
        lines += more
    return lines


async def check_shown_build(client: RetryingClient, order: Order, end: BuildEnd, *, disk_was_full: bool) -> list[str]:
    """Checks that the API shows the status, the counts of tests and the artifact of the build."""
    plan = order.plan
    detail = (await client.call("GET", f"/api/v3/builds/{end.build_id}")).body
    if detail["status"] != end.finished.status:
        return [f"{plan.token}: shown as {detail['status']} instead of {end.finished.status}"]
    if not ended_by_plan(end) or disk_was_full:
        return []
    broken = []
    if (detail["passed"], detail["failed"]) != (plan.passed, plan.failed):
        broken.append(f"{plan.token}: {detail['passed']} passed and {detail['failed']} failed are shown")
    artifacts = (await client.call("GET", f"/api/v3/artifacts?build_id={end.build_id}&limit=200")).body
    proofs = [item for item in artifacts if item["path"] == "proof.bin"]
    if len(proofs) != 1:
        broken.append(f"{plan.token}: proof.bin was stored {len(proofs)} times: {proofs}")
    elif await client.download(f"/api/v3/artifacts/{proofs[0]['id']}/download") != plan.proof:
        broken.append(f"{plan.token}: proof.bin has different content")
    return broken


def _find_difference(got: Sequence[object], wanted: Sequence[object]) -> int | None:
    """Returns the first index at which both have different items, or None."""
    return next((index for index, pair in enumerate(zip(got, wanted, strict=False)) if pair[0] != pair[1]), None)


def _describe_difference(got: Sequence[str], wanted: Sequence[str]) -> str:
    index = _find_difference(got, wanted)
    if index is None:
        return f"{len(got)} lines of {len(wanted)}"
    return f"{got[index]!r} instead of {wanted[index]!r} as line {index + 1} of {len(got)}, {len(wanted)} wanted"


def _is_subsequence(lines: Sequence[str], whole: Sequence[str]) -> bool:
    rest = iter(whole)
    return all(line in rest for line in lines)
