"""Summaries of events about machines on demand: Docker agents. `summaries.py` says what a summary is."""

from collections.abc import Callable, Mapping
from typing import Any

from domain import docker_agents
from domain.core.events import Event

MACHINE_SUMMARIES: Mapping[type[Event], str | Callable[[Any], str]] = {
    docker_agents.DockerAgentRequested: "asked for Docker agent {agent_id} from image {image} on Docker host {host}",
    docker_agents.DockerAgentRegistered: "registered as node {node_id} from the container of Docker agent {agent_id}",
    docker_agents.DockerAgentStarted: "saw the container of Docker agent {agent_id} start",
    docker_agents.DockerAgentStopped: "saw the container of Docker agent {agent_id} end with exit code {exit_code}",
    docker_agents.DockerAgentFailed: "saw that Docker agent {agent_id} failed{error:: “}",
    docker_agents.DockerAgentStartRequested: "asked to start Docker agent {agent_id}",
    docker_agents.DockerAgentStopRequested: "asked to stop Docker agent {agent_id}",
    docker_agents.DockerAgentDestroyRequested: "asked to destroy Docker agent {agent_id}",
    docker_agents.DockerAgentDestroyed: "removed the container of Docker agent {agent_id}",
}
