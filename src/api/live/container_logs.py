"""Sends the log of a container as server-sent events: a JSON message for each line, then `done`."""

import asyncio

import msgspec

from api.live.build_feed import encode_message
from api.live.stream_clients import StreamClient
from integrations.container_ports import ContainerLogs, DockerFailure

DONE_ID = "done"
"""Id of the message `done`. A client that reconnects with this id has received everything."""
BYTES_PER_S = 1024 * 1024
"""Largest average number of bytes of lines that a stream sends in a second. The limit is needed because a container may
print much faster.
"""
_BEGIN, _END = b'data: {"type":"log","data":', b"}\n\n"


class ContainerLogStream(msgspec.Struct, frozen=True):
    """Source of the messages for one client: sends the last `tail` lines of the log, and later lines as they come,
    until the container ends. If the log cannot be read, a message `error` says why.
    """

    logs: ContainerLogs
    host: str
    agent_id: str
    tail: int
    has_id: bool
    """Whether the message `done` has an id."""

    async def __call__(self, client: StreamClient) -> None:
        try:
            async with self.logs.read(self.host, self.agent_id, self.tail, follow=True) as batches:
                async for lines in batches:
                    messages = _BEGIN + (_END + _BEGIN).join(lines) + _END
                    await client.send(messages)
                    await asyncio.sleep(len(messages) / BYTES_PER_S)
        except DockerFailure as error:
            await client.send(encode_message({"type": "error", "data": f"{error}."}))
        done_id = f"id: {DONE_ID}\n".encode() if self.has_id else b""
        await client.send(done_id + encode_message({"type": "done"}))
