"""Names of data keys. A name is a path, and each key is encrypted (wrapped) with the key above it in the path. So
destroying the key of a project also makes the texts of the project's jobs and builds unreadable.
"""

from functools import lru_cache


def project_key(project_id: int) -> str:
    return f"project-{project_id}"


def job_key(project_id: int, job_id: int) -> str:
    return f"{project_key(project_id)}/job-{job_id}"


def build_key(project_id: int, job_id: int, build_id: int) -> str:
    return f"{job_key(project_id, job_id)}/build-{build_id}"


def webhook_key(project_id: int | None, webhook_id: int) -> str:
    """Returns the name of a webhook's data key. `project_id` is None for a webhook of all projects."""
    name = f"webhook-{webhook_id}"
    return name if project_id is None else f"{project_key(project_id)}/{name}"


def channel_key(project_id: int, channel_id: int) -> str:
    return f"{project_key(project_id)}/teams-channel-{channel_id}"


def scm_key(project_id: int, scm_endpoint_id: int) -> str:
    return f"{project_key(project_id)}/scm-{scm_endpoint_id}"


def jira_key(project_id: int | None, jira_id: int) -> str:
    """Returns the name of a Jira integration's data key. `project_id` is None for an integration of all projects."""
    name = f"jira-{jira_id}"
    return name if project_id is None else f"{project_key(project_id)}/{name}"


def template_key(template_id: int) -> str:
    return f"template-{template_id}"


def node_key(node_id: int) -> str:
    return f"node-{node_id}"


def docker_agent_key(agent_id: str) -> str:
    return f"docker-agent-{agent_id}"


def vcenter_key(vcenter_id: int) -> str:
    return f"vcenter-{vcenter_id}"


def user_key(user_id: int) -> str:
    return f"user-{user_id}"


@lru_cache(maxsize=4096)
def lineage(name: str) -> tuple[str, ...]:
    """Returns the names of all keys above a key, the topmost first, followed by `name` itself."""
    above = name.rpartition("/")[0]
    return (*lineage(above), name) if above else (name,)
