"""Labels by which this installation recognizes its containers. They have a separate module, since two modules that are
loaded in different processes need them: the adapter of the engine, and the reader of logs.
"""

from integrations.docker.hosts import DockerSetup

INSTALLATION_LABEL, AGENT_LABEL = "io.testhide.installation", "io.testhide.agent"


def container_labels(setup: DockerSetup, agent_id: str = "") -> list[str]:
    """Returns filters by label for the containers of this installation or, with an id, for the container of an
    agent.
    """
    labels = [f"{INSTALLATION_LABEL}={setup.installation}"]
    return [*labels, f"{AGENT_LABEL}={agent_id}"] if agent_id else labels
