"""What others make of the description: linters find nothing, generators miss nothing, a generated client works.

Needs Node.js and the packages that are locked beside this file. What a linter's configuration leaves out has its reason
there.
"""

import json
from pathlib import Path

import pytest

from tests.real.description.programs import run
from tests.real.description.python_client import PythonClient
from tests.support.server import ADMIN, Server

HERE = Path(__file__).parent
REPORT = b"""<testsuite name="cart" tests="2" failures="1">
<testcase classname="tests.test_cart" name="test_total"/>
<testcase classname="tests.test_cart" name="test_discount"><failure message="2 != 3">trace</failure></testcase>
</testsuite>"""


def run_package(name: str, *arguments: object) -> str:
    return run(HERE / "node_modules" / ".bin" / name, *arguments)


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
