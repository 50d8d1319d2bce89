"""Names of data keys. A name is a path, and each key is wrapped by its parent in this path. So destroying the key of a
project makes the texts of its jobs and builds unreadable, too.
"""


def project_key(project_id: int) -> str:
    return f"project-{project_id}"


def job_key(project_id: int, job_id: int) -> str:
    return f"{project_key(project_id)}/job-{job_id}"


def build_key(project_id: int, job_id: int, build_id: int) -> str:
    return f"{job_key(project_id, job_id)}/build-{build_id}"


def webhook_key(project_id: int | None, webhook_id: int) -> str:
    """Returns the name of the key of a webhook of one project, or of all projects (None)."""
    name = f"webhook-{webhook_id}"
    return name if project_id is None else f"{project_key(project_id)}/{name}"


def channel_key(project_id: int, channel_id: int) -> str:
    return f"{project_key(project_id)}/teams-channel-{channel_id}"


def template_key(template_id: int) -> str:
    return f"template-{template_id}"


def node_key(node_id: int) -> str:
    return f"node-{node_id}"


def user_key(user_id: int) -> str:
    return f"user-{user_id}"


def lineage(name: str) -> list[str]:
    """Returns the names of all keys above a key, the topmost first, and then the name of the key itself."""
    parts = name.split("/")
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]
