"""What has to hold when it is quiet again, whatever has broken before. What does not is told in words."""

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
from tests.faults.calling import Caller
from tests.faults.load import HOOKS, PLAN, Lane, Order, Receiver
from tests.faults.reading import HeardOfAll, HeardOfBuild

AGENTS_OWN = "==> "
MISSING = " lines are missing: the agent's disk was full"
PAGE = 10_000


@dataclass
class Ended:
    """A build's life by the log."""

    build_id: int
    finished: BuildFinished
    attempts: int
    """The last one; 0: it was never given to an agent."""


@dataclass
class Books:
    """What the rules know of all rounds so far."""

    project: int
    position: int = 0
    """Up to which the log was read."""
    life: LogRules = field(init=False)
    told: defaultdict[Lane, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The messages that are to be delivered, in order."""
    positions: set[int] = field(default_factory=set)
    versions: Counter[str] = field(default_factory=Counter)
    """By stream, its last."""

    def __post_init__(self) -> None:
        self.life = LogRules(self.project)

    async def read_on(self, parts: Core) -> tuple[list[Recorded], list[str]]:
        """The events since the last time, and what is wrong with them."""
        events = await parts.log.read(self.position, 1_000_000)
        broken = []
        for recorded in events:
            # A killed database leaves positions out, but never the version of a stream.
            self.versions[recorded.stream] += 1
            if recorded.version != self.versions[recorded.stream]:
                broken.append(f"{recorded.stream} has version {recorded.version} at position {recorded.position}")
        try:
            self.life.check(events)
        except AssertionError as error:
            broken.append("; ".join([f"the life of a build: {error}", *getattr(error, "__notes__", ())]))
        for recorded in events:
            if isinstance(recorded.event, BuildEvent):
                for notification in notifications_of(recorded.event):
                    message = message_id(recorded.position, notification.type, notification.item)
                    for hook, types in HOOKS.items():
                        if notification.type in types:
                            self.told[hook, recorded.event.build_id].append(message)
        self.positions.update(recorded.position for recorded in events)
        self.position = max(self.positions, default=0)
        return events, broken

    def read_along(self, heard: HeardOfAll, events: Sequence[Recorded]) -> Iterator[str]:
        """Who reads everything had each of these events once and in order."""
        there = [(recorded.position, recorded.event.name) for recorded in events]
        got, heard.events = heard.split(self.position)
        if got != there:
            place = next((n for n, pair in enumerate(zip(got, there, strict=False)) if pair[0] != pair[1]), len(got))
            yield f"a reader of all events got {got[place : place + 3]} where {there[place : place + 3]} happened"

    def acknowledged(self, caller: Caller) -> Iterator[str]:
        for position, what in caller.acknowledged:
            if position not in self.positions:
                yield f"{what} was acknowledged at position {position}, where the log has nothing"

    def undelivered(self, receiver: Receiver) -> int:
        return sum(len(told) - len(receiver.taken[lane]) for lane, told in self.told.items())

    def deliveries(self, receiver: Receiver, *, all_of_them: bool) -> Iterator[str]:
        """At least once, and in the order of the log for each webhook and build."""
        for lane, told in self.told.items():
            taken = receiver.taken[lane]
            if taken != told[: len(taken)]:
                yield f"{lane}: messages arrived as {taken}, they happened as {told}"
            elif all_of_them and len(taken) < len(told):
                yield f"{lane}: never delivered: {told[len(taken) :]}"
        if strange := receiver.taken.keys() - self.told.keys():
            yield f"messages about builds that there are not: {sorted(strange)}"


def once(order: Order, events: Sequence[Recorded]) -> Iterator[str]:
    """What was taken is in the log, and nothing is there twice."""
    token = order.plan.token
    queued = [
        recorded.event
        for recorded in events
        if isinstance(recorded.event, BuildQueued) and token in recorded.event.configuration.env.get(PLAN, "")
    ]
    if len(queued) != 1:
        yield f"{token} was started once and is in the log {len(queued)} times: {order.started}"
    comments = Counter(
        recorded.event.text
        for recorded in events
        if isinstance(recorded.event, BuildCommented) and recorded.event.text.endswith(token)
    )
    if sorted(comments.elements()) != sorted(order.commented):
        yield f"{token}: comments taken {order.commented}, in the log {dict(comments)}"


def ended(token: str, events: Sequence[Recorded]) -> Ended | None:
    build = next(
        (
            recorded.event.build_id
            for recorded in events
            if isinstance(recorded.event, BuildQueued) and token in recorded.event.configuration.env.get(PLAN, "")
        ),
        None,
    )
    own = [item.event for item in events if isinstance(item.event, BuildEvent) and item.event.build_id == build]
    attempts = max((event.attempt for event in own if isinstance(event, BuildAssigned | BuildStarted)), default=0)
    finished = next((event for event in own if isinstance(event, BuildFinished)), None)
    return None if finished is None else Ended(finished.build_id, finished, attempts)


def verdict(order: Order, end: Ended, *, disk_was_full: bool) -> Iterator[str]:
    """As the plan says it; else for a reason that was there."""
    plan, finished = order.plan, end.finished
    told = (finished.status, finished.reason, finished.exit_code, finished.detail)
    was_stopped = order.stopped is not None and order.stopped.carried_out
    if was_stopped != (finished.reason == "stopped_by_user"):
        yield f"{plan.token}: stopping was answered with {order.stopped}, the build ended as {told}"
    match finished.reason:
        case "stopped_by_user":
            return
        case "agent_lost":
            if end.attempts < 3:
                yield f"{plan.token}: given up after {end.attempts} attempts: {told}"
        case _ if disk_was_full and finished.status == "failed":
            return  # the build itself may have found no room
        case _:
            if (finished.status, finished.exit_code) != plan.verdict:
                yield f"{plan.token}: ended as {told}, and came to {plan.verdict}"


def by_plan(end: Ended) -> bool:
    return end.finished.reason not in ("stopped_by_user", "agent_lost")


async def log_lines(logs: BuildLogs, order: Order, end: Ended, *, disk_was_full: bool) -> list[str]:
    """Of every attempt: nothing is missing, doubled or in another order; the last one is whole and sealed."""
    broken: list[str] = []
    for attempt in range(1, end.attempts + 1):
        lines = [line.text for line in await stored(logs, end.build_id, attempt)]
        output = [line for line in lines if not line.startswith(AGENTS_OWN)]
        left_out = sum(int(line.split()[1]) for line in lines if line.startswith(AGENTS_OWN) and line.endswith(MISSING))
        is_whole = attempt == end.attempts and by_plan(end) and not disk_was_full
        wanted = order.plan.output
        if is_whole and output != wanted:
            broken.append(f"{order.plan.token}, attempt {attempt}: {_difference(output, wanted)}")
        elif left_out and disk_was_full:
            if not _in_order(output, wanted):
                broken.append(f"{order.plan.token}, attempt {attempt}: {_difference(output, wanted)}")
        elif output != wanted[: len(output)] and not disk_was_full:
            broken.append(f"{order.plan.token}, attempt {attempt}: {_difference(output, wanted)}")
    finished = end.finished
    if end.attempts and not await logs.is_intact(end.build_id, end.attempts, finished.log_lines, finished.log_digest):
        broken.append(f"{order.plan.token}: its log is not the one that was sealed with {finished.log_lines} lines")
    if by_plan(end) and finished.log_lines != await logs.count_lines(end.build_id, end.attempts):
        broken.append(f"{order.plan.token}: lines came after its end")
    return broken


async def readers(logs: BuildLogs, order: Order, end: Ended) -> list[str]:
    """Who read its stream, however often cut off, has every line of the log once and in order."""
    return [fault for heard in order.heard for fault in await _reader(logs, heard, end)]


async def _reader(logs: BuildLogs, heard: HeardOfBuild, end: Ended) -> list[str]:
    if not heard.done:
        return [f"build {end.build_id}: a reader was never told that it has ended"]
    broken = []
    if heard.status != end.finished.status:
        broken.append(f"build {end.build_id}: a reader was told {heard.status}, it {end.finished.status}")
    if [message[:2] for message in heard.messages] != sorted({message[:2] for message in heard.messages}):
        broken.append(f"build {end.build_id}: a reader got lines twice or in another order")
    for attempt in range(1, end.attempts + 1):
        got = [text for number, _, text in heard.messages if number == attempt]
        there = [format_line(line) for line in await stored(logs, end.build_id, attempt)]
        if not got and attempt < end.attempts:
            continue  # it came later
        if not by_plan(end) and attempt == end.attempts:
            # What was on its way when it was stopped may be stored after its readers were told that it has ended.
            there = there[: max(len(got), end.finished.log_lines)]
        if got != there:
            broken.append(f"build {end.build_id}, attempt {attempt}: a reader got {_difference(got, there)}")
    return broken


async def stored(logs: BuildLogs, build: int, attempt: int) -> list[Line]:
    lines: list[Line] = []
    while more := await logs.read(build, attempt, len(lines), PAGE):
        lines += more
    return lines


async def shown_build(caller: Caller, order: Order, end: Ended, *, disk_was_full: bool) -> list[str]:
    """What people see of it: status, tests, artifact."""
    plan = order.plan
    detail = (await caller.call("GET", f"/api/v3/builds/{end.build_id}")).body
    if detail["status"] != end.finished.status:
        return [f"{plan.token}: shown as {detail['status']}, it {end.finished.status}"]
    if not by_plan(end) or disk_was_full:
        return []
    broken = []
    if (detail["passed"], detail["failed"]) != (plan.passed, plan.failed):
        broken.append(f"{plan.token}: {detail['passed']} passed and {detail['failed']} failed are shown")
    kept = (await caller.call("GET", f"/api/v3/artifacts?build_id={end.build_id}&limit=200")).body
    proofs = [item for item in kept if item["path"] == "proof.bin"]
    if len(proofs) != 1:
        broken.append(f"{plan.token}: proof.bin was kept {len(proofs)} times: {proofs}")
    elif await caller.content(f"/api/v3/artifacts/{proofs[0]['id']}/download") != plan.proof:
        broken.append(f"{plan.token}: proof.bin has another content")
    return broken


def _difference(got: Sequence[str], wanted: Sequence[str]) -> str:
    place = next((n for n, pair in enumerate(zip(got, wanted, strict=False)) if pair[0] != pair[1]), None)
    if place is None:
        return f"{len(got)} lines of {len(wanted)}"
    return f"{got[place]!r} instead of {wanted[place]!r} as line {place + 1} of {len(got)}, {len(wanted)} wanted"


def _in_order(some: Sequence[str], of: Sequence[str]) -> bool:
    rest = iter(of)
    return all(line in rest for line in some)
