"""GitHub as its own description has it: prism, which others wrote, answers by the description's examples, and refuses
requests that break it. It keeps no state.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import free_port

FOLDER = Path(__file__).parent
DESCRIPTION = FOLDER / "node_modules/@octokit/openapi/generated/api.github.com.json"
PATHS = (
    "/repos/{owner}/{repo}",
    "/repos/{owner}/{repo}/branches",
    "/repos/{owner}/{repo}/git/matching-refs/{ref}",
    "/repos/{owner}/{repo}/commits",
    "/repos/{owner}/{repo}/commits/{ref}",
    "/repos/{owner}/{repo}/contents/{path}",
    "/repos/{owner}/{repo}/statuses/{sha}",
    "/app/installations/{installation_id}/access_tokens",
)
"""What the adapter calls. With all paths prism would take 17 s to start."""


def prune(description: dict[str, Any]) -> dict[str, Any]:
    """Returns the description of these paths, with the components that they refer to."""
    kept: dict[str, Any] = {
        **{name: description[name] for name in ("openapi", "info")},
        "paths": {f"/api/v3{path}": description["paths"][path] for path in PATHS},
        "components": {},
    }
    waiting: list[Any] = [kept["paths"]]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            if isinstance(reference := part.get("$ref"), str):
                _, _, kind, name = reference.split("/")
                components = kept["components"].setdefault(kind, {})
                if name not in components:
                    components[name] = description["components"][kind][name]
                    waiting.append(components[name])
    return kept


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of the server, as that of a GitHub Enterprise Server."""
    if not DESCRIPTION.exists():
        yield ""  # `real_counterpart` has skipped the test, or says what is missing
        return
    pruned = tmp_path_factory.mktemp("github") / "github.json"
    pruned.write_text(json.dumps(prune(json.loads(DESCRIPTION.read_text()))))
    port = free_port()
    prism = FOLDER / "node_modules/@stoplight/prism-cli/dist/index.js"
    command = ["node", str(prism), "mock", "--port", str(port), str(pruned)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "is listening" in line:
                    break
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
