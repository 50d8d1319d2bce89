"""Sends the log of a container as server-sent events: a JSON message for each line, then `done`."""

import msgspec

from api.live.build_feed import encode_message
from api.live.stream_clients import StreamClient
from integrations.container_ports import ContainerLogs, DockerFailure


class ContainerLogStream(msgspec.Struct, frozen=True):
    """Source of a client: sends the last `tail` lines, and later ones as they come, until the container ends. If the
    log cannot be read, a message `error` says why.
    """

    logs: ContainerLogs
    host: str
    agent_id: str
    tail: int

    async def __call__(self, client: StreamClient) -> None:
        try:
            async with self.logs.read(self.host, self.agent_id, self.tail, follow=True) as batches:
                async for lines in batches:
                    await client.send(b"".join(encode_message({"type": "log", "data": line}) for line in lines))
        except DockerFailure as error:
            await client.send(encode_message({"type": "error", "data": f"{error}."}))
        await client.send(encode_message({"type": "done"}))
