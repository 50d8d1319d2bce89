"""Compares the server's other stored data with the events in the log: `testhide audit verify --contents`.

Compared are build logs, artifacts, and the endpoints of webhooks and Teams channels.
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from psycopg_pool import AsyncConnectionPool

from domain.artifacts import ARTIFACT, ArtifactStored
from domain.builds import BUILD, BuildFinished, Finished
from domain.core.errors import StreamDamaged
from domain.core.events import Category, Damaged, Recorded
from domain.endpoints import EndpointDeleted, EndpointRegistered, EndpointUpdated
from domain.teams import CHANNEL, ChannelRegistered
from domain.webhooks import WEBHOOK, WebhookRegistered
from integrations.ports import BlobMissing, Blobs
from store.log.event_log import EventLog
from store.tables.build_logs import BuildLogs
from store.tables.delivery_endpoints import fetch_folded
from workers.deliveries.planner import NAME as PLANNER

BATCH_SIZE = 500
"""Number of events that are read at once."""


@dataclass
class ContentsCheck:
    log: EventLog
    pool: AsyncConnectionPool
    blobs: Blobs
    logs: int = 0
    """Number of build logs that were compared. Logs of deleted builds do not count."""
    artifacts: int = 0
    size: int = 0
    """Bytes of all artifacts that were compared."""
    endpoints: int = 0
    """Number of webhooks and channels of MS Teams that were compared."""
    build_logs: BuildLogs = field(init=False)

    def __post_init__(self) -> None:
        self.build_logs = BuildLogs(self.pool)

    async def run(self) -> AsyncIterator[str]:
        """Yields a sentence for each build log, artifact or endpoint that differs from its event, in the order of the
        events.

        Reads all stored contents; the server may run meanwhile. Raises Unavailable if the blob store cannot be reached.
        """
        head, position, is_full = await self.log.read_head(), 0, True
        while is_full:
            names = [BuildFinished.name, ArtifactStored.name, WebhookRegistered.name, ChannelRegistered.name]
            events, position, is_full = await self.log.read_batch(position, BATCH_SIZE, names, up_to=head)
            for recorded in events:
                try:
                    damage = await self._find_damage(recorded)
                except StreamDamaged as error:
                    damage = error.detail
                if damage is not None:
                    yield f"position {recorded.position}: {damage}"

    async def _find_damage(self, recorded: Recorded) -> str | None:
        match recorded.event:
            case Damaged() as event:
                return f"{recorded.stream} cannot be read ({event.reason})"
            case BuildFinished() as event:
                return await self._find_damaged_log(event)
            case ArtifactStored() as event:
                return await self._find_damaged_artifact(event)
            case WebhookRegistered() | ChannelRegistered() as event:
                return await self._find_changed_endpoint(event)
            case _:
                return None

    async def _find_damaged_log(self, event: BuildFinished) -> str | None:
        build = await self.log.load_state(BUILD.at(event.build_id))
        if not isinstance(build, Finished):
            return None
        damage = await self.build_logs.find_damage(event.build_id, build.attempt, event.log_lines, event.log_digest)
        if await self._is_deleted(event):
            return None
        self.logs += 1
        return f"the log of build {event.build_id}: {damage}" if damage is not None else None

    async def _find_damaged_artifact(self, event: ArtifactStored) -> str | None:
        hashed, size = hashlib.sha256(), 0
        try:
            async for chunk in await self.blobs.get(event.blob):
                hashed.update(chunk)
                size += len(chunk)
            damage = None if hashed.hexdigest() == event.sha256 else "is not what was stored"
        except BlobMissing:
            damage = "is gone"
        # Asked after the comparison: the artifact may have been deleted meanwhile.
        if await self._is_deleted(event) or await self.log.load_state(ARTIFACT.at(event.artifact_id)) is None:
            return None
        self.artifacts += 1
        self.size += size
        name = f"artifact {event.artifact_id} of build {event.build_id}, {event.path}"
        return f"{name}: its content ({event.blob}) {damage}" if damage is not None else None

    async def _find_changed_endpoint(self, event: WebhookRegistered | ChannelRegistered) -> str | None:
        stored, planned = await fetch_folded(self.pool, event.endpoint_id, PLANNER)
        history = (await self.log.load([event.stream]))[event.stream]
        folded = [item for item in history if isinstance(item.event, EndpointRegistered | EndpointUpdated)]
        is_deleted = any(isinstance(item.event, EndpointDeleted) for item in history) or await self._is_deleted(event)
        if is_deleted or folded[-1].position > planned:
            return None  # deleted, or the planner, which fills the table, has not read the last event of the stream
        self.endpoints += 1
        name = f"{'webhook' if event.kind == 'webhook' else 'Teams channel'} {event.endpoint_id}"
        if stored is None:
            return f"{name} is not delivered to any more: it is gone from the table webhook_endpoints"
        category: Category[Any] = WEBHOOK if event.kind == "webhook" else CHANNEL
        state = category.at(event.endpoint_id).fold(item.event for item in history)
        # The address of a channel is in its stream alone.
        expected = {"kind": event.kind, "url": None, "sealed_secret": None}
        right = {name: getattr(state, name, expected.get(name)) for name in stored}
        changed = [name for name, value in stored.items() if value != right[name]]
        return f"{name}: its {', '.join(changed)} in webhook_endpoints is changed" if changed else None

    async def _is_deleted(self, event: BuildFinished | ArtifactStored | EndpointRegistered) -> bool:
        key = event.data_key
        return key is not None and bool(await self.log.find_destroyed_keys([key]))
