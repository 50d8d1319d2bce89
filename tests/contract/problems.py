"""What every refusal has in common."""

from typing import Any

import requests


def problem_of(answer: requests.Response, status: int) -> dict[str, Any]:
    """The answer's problem, which is one in every respect."""
    assert answer.status_code == status, f"{answer.request.method} {answer.request.path_url}: {answer.text[:500]}"
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem.keys() >= {"type", "title", "status", "detail"}
    assert problem["status"] == status
    assert all(isinstance(problem[key], str) and problem[key] for key in ("type", "title", "detail"))
    assert "Traceback" not in answer.text
    if status == 401:
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for error in problem.get("errors", ()):
        assert error.keys() == {"field", "message"}
    return problem
