"""Compares stored data that are not in the log with the events in the log: `testhide audit verify --contents`.

The data are build logs, artifacts, and the endpoints of webhooks and Teams channels.
"""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from psycopg_pool import AsyncConnectionPool

from domain.artifacts import ARTIFACT, ArtifactStored
from domain.builds import BUILD, BuildFinished, Finished
from domain.core.errors import StreamDamaged
from domain.core.events import Damaged, Recorded
from domain.teams import ChannelRegistered
from domain.webhooks import WebhookRegistered
from integrations.ports import BlobMissing, Blobs
from store.log.event_log import EventLog
from store.tables.build_logs import BuildLogs
from workers.deliveries.comparison import find_changed_endpoint, name_endpoint

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
        changed = await find_changed_endpoint(self.pool, self.log, event)
        if changed is None:
            return None
        self.endpoints += 1
        name = name_endpoint(event)
        if changed == ["row"]:
            return f"{name} is not delivered to any more: it is gone from the table webhook_endpoints"
        return f"{name}: its {', '.join(changed)} in webhook_endpoints is changed" if changed else None

    async def _is_deleted(self, event: BuildFinished | ArtifactStored) -> bool:
        key = event.data_key
        return key is not None and bool(await self.log.data_keys.find_destroyed([key]))
