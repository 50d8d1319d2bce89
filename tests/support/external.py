"""Builds whose pipeline runs elsewhere, as the tests of artifacts and results need them."""

import uuid
from typing import Any

import requests


def new_project(server: Any) -> int:
    return int(server.admin.post("/api/v3/projects", json={"name": f"P {uuid.uuid4().hex[:8]}"}).json()["id"])


def new_job(server: Any, project: int) -> int:
    return int(server.admin.post("/api/v3/jobs", json={"name": "Elsewhere", "project_id": project}).json()["id"])


def new_build(server: Any, job: int, **more: Any) -> int:
    body = {"job_id": job, "external": True, **more}
    answer = server.admin.post("/api/v3/builds/start", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def upload(
    client: Any, build: object, content: bytes, name: str = "report.xml", path: str | None = None
) -> requests.Response:
    fields = {"build_id": str(build)} | ({} if path is None else {"path": path})
    return client.post("/api/v3/artifacts/upload", data=fields, files={"file": (name, content)})  # type: ignore[no-any-return]
