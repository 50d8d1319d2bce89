"""What others make of the description: linters find nothing, generators miss nothing, a generated client works.

Needs Node.js and the packages that are locked beside this file. What a linter's configuration leaves out has its reason
there.
"""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.support.description import describe
from tests.support.server import ADMIN, Server

HERE = Path(__file__).parent
REPORT = b"""<testsuite name="cart" tests="2" failures="1">
<testcase classname="tests.test_cart" name="test_total"/>
<testcase classname="tests.test_cart" name="test_discount"><failure message="2 != 3">trace</failure></testcase>
</testsuite>"""


def run(*command: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def run_package(name: str, *arguments: object) -> str:
    return run(HERE / "node_modules" / ".bin" / name, *arguments)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("description") / "openapi.json"
    path.write_text(json.dumps(describe()))
    return path


@pytest.mark.real("node")
def test_spectral_finds_nothing(document: Path) -> None:
    run_package("spectral", "lint", "--ruleset", HERE / "spectral.yaml", "--fail-severity", "hint", document)


@pytest.mark.real("node")
def test_redocly_finds_nothing(document: Path) -> None:
    found = run_package("redocly", "lint", "--config", HERE / "redocly.yaml", "--format", "json", document)
    totals = json.loads(found[found.index("{") : found.rindex("}") + 1])["totals"]
    assert totals == {"errors": 0, "warnings": 0, "ignored": 0}


@pytest.mark.real("node")
def test_typescript_understands_the_types(document: Path, tmp_path: Path) -> None:
    types = tmp_path / "api.ts"
    # Fields with a default may be left out.
    options = ("--redocly", HERE / "redocly.yaml", "--default-non-nullable=false")
    output = run_package("openapi-typescript", document, *options, "--output", types)
    assert "warn" not in output.lower()
    (tmp_path / "use.ts").write_text(
        'import type { components, operations } from "./api";\n'
        'const status: components["schemas"]["BuildDetail"]["status"] = "passed";\n'
        'type Body = operations["start_build"]["requestBody"]["content"]["application/json"];\n'
        "const body: Body = { job_id: 7 };\n"
        "export { body, status };\n"
    )
    run_package("tsc", "--strict", "--noEmit", "--target", "es2022", types, tmp_path / "use.ts")


class PythonClient:
    """A client that openapi-python-client has generated; operations are called by their ids."""

    def __init__(self, url: str, token: str = "") -> None:
        package = import_module("testhide_client")
        self.models = import_module("testhide_client.models")
        self.file = import_module("testhide_client.types").File
        self._client = package.AuthenticatedClient(url, token) if token else package.Client(url)

    def __enter__(self) -> "PythonClient":
        self._client.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._client.__exit__(*error)

    def call(self, tag: str, operation: str, *ids: int, **arguments: Any) -> Any:
        """Calls an operation and returns its answer, which must have the described form."""
        module = import_module(f"testhide_client.api.{tag}.{operation}")
        answer = module.sync_detailed(*ids, client=self._client, **arguments)
        assert answer.parsed is not None or not answer.content, answer.content
        return answer.parsed


@pytest.fixture
def package(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `testhide_client` that can be imported. A warning of its generator is a failure."""
    generator = (sys.executable, "-m", "openapi_python_client", "generate", "--path", document, "--meta", "none")
    config = ("--config", HERE / "python-client.yaml")
    run(*generator, *config, "--output-path", tmp_path / "testhide_client", "--fail-on-warning")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("package")
def test_a_generated_client_runs_a_build(server: Server) -> None:
    email, password = ADMIN
    with PythonClient(server.url) as anonymous:
        login = anonymous.models.Login(username=email, password=password)
        token = anonymous.call("authentication", "authenticate", body=login).token
    with PythonClient(server.url, token) as client:
        run_a_build(client)


def run_a_build(client: PythonClient) -> None:
    models = client.models
    project = client.call("projects", "create_project", body=models.NewProject(name="Shop"))
    new_job = models.NewJob(name="Unit tests", project_id=project.id)
    job = client.call("jobs", "create_job", body=new_job, idempotency_key="unit-tests")
    assert client.call("jobs", "create_job", body=new_job, idempotency_key="unit-tests").id == job.id

    started = client.call("builds", "start_build", body=models.NewBuild(job_id=job.id, external=True, branch="main"))
    file = client.file(payload=REPORT, file_name="junit.xml", mime_type="application/xml")
    upload = models.UploadArtifactBody(build_id=started.id, file=file)
    assert client.call("artifacts", "upload_artifact", body=upload).report.cases == 2
    result = models.ExternalResult(status=models.ExternalResultStatus.PASSED)
    finished = client.call("builds", "finish_build", started.id, body=result)
    assert finished.status is models.BuildStatusStatus.FAILED

    build = client.call("builds", "get_build", started.id)
    assert (build.total_tests, build.failed_tests, build.branch) == (2, 1, "main")
    report = client.call("reports_tests", "get_report", started.id)
    assert (report.passed, report.failed) == (1, 1)
    failures = client.call("reports_tests", "list_tests", build_id=started.id, status=models.ListTestsStatus.FAILED)
    (failure,) = failures.results
    assert failure.node_id.endswith("::test_discount")
    classification = models.NewClassification(classification=models.NewClassificationClassification.PRODUCT_BUG)
    client.call("reports_tests", "classify_test", failure.id, body=classification)
    assert client.call("reports_tests", "get_test", failure.id).classification == "product_bug"


@pytest.mark.usefixtures("package")
def test_a_generated_client_reads_problems(server: Server) -> None:
    with PythonClient(server.url, server.admin.token) as client:
        problem = client.call("builds", "get_build", 2**52)
        assert isinstance(problem, client.models.Problem)
    assert problem.detail == f"There is no build {2**52}."
