"""The containers of this installation on a Docker host. Calls run in threads. Each thread has a client of the engine
that no other thread uses.
"""

import asyncio
import contextlib
import io
import tarfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from docker.types import LogConfig, Mount

from domain.docker_agents import ContainerState
from integrations.container_ports import DockerFailure, DockerRejected, DockerUnavailable, NewContainer
from integrations.docker.client import APIClient, APIError, NotFound, connect, converted_errors
from integrations.docker.hosts import DockerSetup, find_server_problem
from integrations.docker.labels import AGENT_LABEL, INSTALLATION_LABEL, container_labels

T = TypeVar("T")

THREADS = 8
"""Largest number of calls that a process makes to one host at the same time."""
CALL_LIMIT_S = 30.0
"""Longest time in seconds that a call takes, with all requests that it makes."""
STOP_TIMEOUT_S = 15
"""Seconds that an agent has to end before its container is killed."""
REMOVAL_TIMEOUT_S = 10.0
"""Longest time in seconds to wait until a removed container is gone, since another worker may still be removing it."""
REMOVAL_INTERVAL_S = 0.1
PULL_LIMIT_S = 540.0
"""Longest time in seconds that pulling an image takes."""

EVENTS = ["start", "die", "destroy"]
"""Types of Docker's events after which a container has another state."""
USER = 10001
"""User id and group id of all processes in a container. They replace the user that the image sets."""
STATE_FOLDER = "/testhide"
"""Folder of the container's volume. Files in other folders do not outlast a stop of the container."""
AGENT_FOLDER = "agent"
TOKEN_FILE = "registration"  # noqa: S105 (a file name)
MAX_PROCESSES = 2_048
TMPFS = {"/tmp": "rw,exec,nosuid,nodev,size=1g,mode=1777", "/run": "rw,noexec,nosuid,nodev,size=16m,mode=1777"}  # noqa: S108
"""Folders in memory: path -> mount options. They count toward the memory limit of the container."""


class DockerEngine:
    """Implements `DockerHost`."""

    def __init__(self, setup: DockerSetup, name: str) -> None:
        self._setup, self._name = setup, name
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=f"docker-{name}")
        self._local = threading.local()

    async def find(self, agent_id: str) -> ContainerState | None:
        return await self._call(lambda client: self._find(client, agent_id))

    async def list_all(self) -> Mapping[str, ContainerState]:
        return await self._call(self._list_all)

    async def create(self, new: NewContainer) -> ContainerState:
        if problem := find_server_problem(self._setup.server_url, self._setup.network):
            raise DockerRejected(problem)
        try:
            return await self._call(lambda client: self._create(client, new))
        except _NoImage:
            await self._call(lambda client: self._pull(client, new.image), PULL_LIMIT_S)
            return await self._call(lambda client: self._create(client, new))

    async def start(self, agent_id: str, registration_token: str) -> ContainerState:
        return await self._call(lambda client: self._start(client, agent_id, registration_token))

    async def stop(self, agent_id: str) -> ContainerState | None:
        return await self._call(lambda client: self._stop(client, agent_id))

    async def remove(self, agent_id: str) -> None:
        await self._call(lambda client: self._remove(client, agent_id))

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[AsyncGenerator[str, None]]:
        loop = asyncio.get_running_loop()
        changes: asyncio.Queue[str | None] = asyncio.Queue()

        def open_stream() -> Any:
            with converted_errors(self._name):
                client = connect(self._setup, self._name)
                filters = {"type": "container", "event": EVENTS, "label": container_labels(self._setup)}
                return client.events(filters=filters, decode=True)

        def read(stream: Any) -> None:
            try:
                for event in stream:
                    agent_id = event["Actor"]["Attributes"].get(AGENT_LABEL, "")
                    loop.call_soon_threadsafe(changes.put_nowait, agent_id)
            except Exception:  # whatever breaks the stream ends it; the caller opens another one
                return
            finally:
                with contextlib.suppress(RuntimeError):  # the process ends
                    loop.call_soon_threadsafe(changes.put_nowait, None)

        async def iterate() -> AsyncGenerator[str, None]:
            while (agent_id := await changes.get()) is not None:
                yield agent_id

        async with asyncio.timeout(CALL_LIMIT_S):
            stream = await asyncio.to_thread(open_stream)
        # A thread of its own, since it blocks as long as the host is followed.
        threading.Thread(target=read, args=(stream,), name=f"docker-{self._name}-events", daemon=True).start()
        try:
            yield iterate()
        finally:
            with contextlib.suppress(Exception):
                stream.close()

    async def _call(self, work: Callable[[APIClient], T], limit_s: float = CALL_LIMIT_S) -> T:
        def run() -> T:
            if not hasattr(self._local, "client"):
                self._local.client = connect(self._setup, self._name)
            with converted_errors(self._name):
                return work(self._local.client)

        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, run)
        except TimeoutError:
            raise DockerUnavailable(f"Docker host {self._name} does not answer within {limit_s:.0f} s") from None

    def _find(self, client: APIClient, agent_id: str) -> ContainerState | None:
        found = client.containers(all=True, filters={"label": container_labels(self._setup, agent_id)})
        states = (_inspect(client, container["Id"]) for container in found)
        return next((state for state in states if state is not None), None)

    def _list_all(self, client: APIClient) -> dict[str, ContainerState]:
        states: dict[str, ContainerState] = {}
        for container in client.containers(all=True, filters={"label": container_labels(self._setup)}):
            state = _inspect(client, container["Id"])
            if state is not None:
                states[str(container["Labels"].get(AGENT_LABEL, ""))] = state
        return states

    def _must_find(self, client: APIClient, agent_id: str) -> ContainerState:
        found = self._find(client, agent_id)
        if found is None:
            raise DockerRejected(f"Docker host {self._name} has no container of {agent_id}")
        return found

    def _create(self, client: APIClient, new: NewContainer) -> ContainerState:
        if (found := self._find(client, new.agent_id)) is not None:
            return found
        self._ensure_network(client)
        memory = None if new.memory_mb is None else new.memory_mb * 2**20
        limits: dict[str, Any] = {"mem_limit": memory, "memswap_limit": memory} if memory else {}  # equal: no swap
        if new.cpus:
            limits["nano_cpus"] = int(new.cpus * 1e9)
        host_config = client.create_host_config(
            privileged=False,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            read_only=True,
            tmpfs=TMPFS,
            mounts=[Mount(STATE_FOLDER, None, type="volume")],
            network_mode=self._setup.network,
            pids_limit=MAX_PROCESSES,
            ipc_mode="private",
            log_config=LogConfig(type="json-file", config={"max-size": "10m", "max-file": "2"}),
            restart_policy={"Name": "no"},
            **limits,
        )
        folder = f"{STATE_FOLDER}/{AGENT_FOLDER}"
        arguments = ["--server", self._setup.server_url, "--registration-file", f"{folder}/{TOKEN_FILE}"]
        try:
            client.create_container(
                new.image,
                [*arguments, "--workdir", f"{folder}/work"],
                name=f"testhide-{new.agent_id}",
                hostname=new.agent_id,
                user=f"{USER}:{USER}",
                working_dir=folder,
                environment={"HOME": folder, **new.env},
                labels={INSTALLATION_LABEL: self._setup.installation, AGENT_LABEL: new.agent_id},
                host_config=host_config,
            )
        except NotFound as error:
            if "image" in str(error.explanation).lower():
                raise _NoImage(str(error.explanation)) from None
            raise
        except APIError as error:
            # Another worker has created it at the same time, or somebody else's container has its name.
            if error.status_code != 409 or (found := self._find(client, new.agent_id)) is None:
                raise
            return found
        return self._must_find(client, new.agent_id)

    def _pull(self, client: APIClient, image: str) -> None:
        repository, tag = image, None
        if "@" not in image and ":" in image.rpartition("/")[2]:
            repository, _, tag = image.rpartition(":")
        try:
            for message in client.pull(
                repository, tag or ("latest" if "@" not in image else None), stream=True, decode=True
            ):
                if "error" in message:
                    raise DockerRejected(f"Docker host {self._name} cannot pull {image}: {message['error']}")
        except (APIError, NotFound) as error:
            raise DockerRejected(
                f"Docker host {self._name} does not have the image {image}, and cannot pull it: {error.explanation}"
            ) from None

    def _start(self, client: APIClient, agent_id: str, registration_token: str) -> ContainerState:
        container = self._must_find(client, agent_id)
        if container.running:
            return container
        client.put_archive(container.container_id, STATE_FOLDER, _pack_token(registration_token))
        try:
            client.start(container.container_id)
        except APIError:
            failed = self._must_find(client, agent_id)
            if not failed.error:
                raise
            return failed
        return self._must_find(client, agent_id)

    def _stop(self, client: APIClient, agent_id: str) -> ContainerState | None:
        container = self._find(client, agent_id)
        if container is None:
            return None
        with contextlib.suppress(NotFound):
            client.stop(container.container_id, timeout=STOP_TIMEOUT_S)
        return self._find(client, agent_id)

    def _remove(self, client: APIClient, agent_id: str) -> None:
        for container in client.containers(all=True, filters={"label": container_labels(self._setup, agent_id)}):
            try:
                client.remove_container(container["Id"], v=True, force=True)
            except NotFound:
                continue
            except APIError as error:
                if error.status_code != 409:  # another worker is removing it
                    raise
        deadline = time.monotonic() + REMOVAL_TIMEOUT_S
        while self._find(client, agent_id) is not None:
            if time.monotonic() > deadline:
                raise DockerUnavailable(f"Docker host {self._name} is still removing the container of {agent_id}")
            time.sleep(REMOVAL_INTERVAL_S)

    def _ensure_network(self, client: APIClient) -> None:
        if any(network["Name"] == self._setup.network for network in client.networks(names=[self._setup.network])):
            return
        # Containers reach the server and other hosts, but not each other.
        options = {"com.docker.network.bridge.enable_icc": "false"}
        try:
            client.create_network(self._setup.network, driver="bridge", options=options)
        except APIError as error:
            if error.status_code != 409:  # another worker has created it
                raise


class _NoImage(DockerFailure):
    """The host does not have the image of a container."""


def _inspect(client: APIClient, container_id: str) -> ContainerState | None:
    try:
        state = client.inspect_container(container_id)["State"]
    except NotFound:
        return None
    started = str(state["StartedAt"])
    return ContainerState(
        container_id=container_id,
        running=bool(state["Running"]),
        run="" if started.startswith("0001-") else started,
        exit_code=int(state["ExitCode"]),
        out_of_memory=bool(state["OOMKilled"]),
        error=str(state.get("Error") or ""),
    )


def _pack_token(token: str) -> bytes:
    """Returns a tar archive with the agent's folder and the file of its registration token. Only the container's user
    can read the file. The token is in no environment and no command line, so `docker inspect` does not show it.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        folder = tarfile.TarInfo(AGENT_FOLDER)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        file = tarfile.TarInfo(f"{AGENT_FOLDER}/{TOKEN_FILE}")
        file.size, file.mode = len(token), 0o400
        for entry, content in ((folder, None), (file, io.BytesIO(token.encode()))):
            entry.uid = entry.gid = USER
            archive.addfile(entry, content)
    return packed.getvalue()
