"""Watches the containers of Docker agents: one worker follows the events of every configured Docker host.

An event only says that a container has changed; its state is then read from the host. After each connection, and every
SYNC_INTERVAL_S, all containers of the host are compared with the agents. Containers of this installation that belong to
no agent any more are removed.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from domain.docker_agents import DOCKER_AGENT
from integrations.container_ports import DockerFailure, DockerHost, DockerHosts
from projections import docker_agents
from store.log.event_log import EventLog
from store.postgres.cancellation import cancel_and_wait
from store.postgres.leader_lock import DOCKER_LOCK, hold_leader_lock
from workers.docker_agents import DockerOperator
from workers.loops.outages import tolerate_outages

log = structlog.get_logger()

LOCK_CHECK_INTERVAL_S = 1.0
"""Seconds between two checks that the leader still has the lock."""
SYNC_INTERVAL_S = 30.0
"""Seconds between two comparisons of all containers of a host with the agents."""
RECONNECT_INTERVAL_S = 1.0
"""Seconds until a host that cannot be followed is tried again."""


@dataclass(frozen=True)
class DockerWatch:
    conninfo: str
    pool: AsyncConnectionPool
    log: EventLog
    hosts: DockerHosts
    operator: DockerOperator
    sync_interval_s: float = SYNC_INTERVAL_S

    async def run(self) -> None:
        """Watches the hosts while this process leads, and waits to lead otherwise. Runs until cancelled."""
        if not self.hosts.names:
            await asyncio.Event().wait()  # for ever: there is nothing to watch
        while True:
            async with tolerate_outages("Docker hosts"), hold_leader_lock(self.conninfo, DOCKER_LOCK) as lock:
                log.info("watching Docker hosts", hosts=sorted(self.hosts.names))
                await self._lead(lock)
            await asyncio.sleep(LOCK_CHECK_INTERVAL_S)

    async def _lead(self, lock: AsyncConnection) -> None:
        """Watches the hosts until the connection that holds the lock breaks. Raises psycopg.OperationalError then."""
        tasks = [asyncio.create_task(self._watch(name), name=f"docker {name}") for name in self.hosts.names]
        try:
            while True:
                await lock.execute("SELECT")
                await asyncio.sleep(LOCK_CHECK_INTERVAL_S)
        finally:
            await cancel_and_wait(*tasks)

    async def _watch(self, name: str) -> None:
        problem = ""
        while True:
            try:
                async with tolerate_outages("Docker hosts"):
                    host = self.hosts.open(name)
                    async with host.follow() as changes:
                        await self.sync(name, host)
                        problem = ""
                        await self._follow(name, host, changes)
            except DockerFailure as error:
                if str(error) != problem:
                    problem = str(error)
                    log.warning("a Docker host cannot be watched", host=name, error=problem)
            except Exception:
                log.exception("the watch of a Docker host failed", host=name)
            await asyncio.sleep(RECONNECT_INTERVAL_S)

    async def _follow(self, name: str, host: DockerHost, changes: AsyncGenerator[str, None]) -> None:
        """Handles the changes of containers until the host cannot be followed any more."""
        following = asyncio.create_task(self._handle(host, changes))
        syncing = asyncio.create_task(self._keep_syncing(name, host))
        try:
            done, _ = await asyncio.wait((following, syncing), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancel_and_wait(following, syncing)

    async def _handle(self, host: DockerHost, changes: AsyncGenerator[str, None]) -> None:
        async for agent_id in changes:
            agent = await self.log.load_state(DOCKER_AGENT.at(agent_id))
            await self.operator.check(host, agent_id, agent, await host.find(agent_id))

    async def _keep_syncing(self, name: str, host: DockerHost) -> None:
        while True:
            await asyncio.sleep(self.sync_interval_s)
            await self.sync(name, host)

    async def sync(self, name: str, host: DockerHost) -> None:
        """Compares all containers of a host with the agents, and mends what differs. Raises DockerFailure if a call of
        the host fails.
        """
        agent_ids = await docker_agents.fetch_of_host(self.pool, name)
        agents = {agent_id: await self.log.load_state(DOCKER_AGENT.at(agent_id)) for agent_id in agent_ids}
        containers = await host.list_all()
        for agent_id in containers.keys() - agents.keys():
            agents[agent_id] = await self.log.load_state(DOCKER_AGENT.at(agent_id))
        for agent_id, agent in agents.items():
            await self.operator.check(host, agent_id, agent, containers.get(agent_id))
