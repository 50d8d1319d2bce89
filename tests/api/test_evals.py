"""Evaluations over HTTP: requested, run by a worker, read and compared."""

import time
from typing import Any

import pytest

from tests.contract.operations import DOCUMENTED
from tests.support.evals import run_evals
from tests.support.http import Client
from tests.support.in_process_server import serve_in_process
from tests.support.server import ADMIN, Server

PATIENCE_S = 60


def test_an_evaluation_runs_end_to_end(opened: Server) -> None:
    admin = opened.admin
    requested = admin.when("POST", "/evals/runs", json={"suite": "health"}).then(202)
    assert (requested["status"], requested["suite"], requested["model"]) == ("pending", "health", "builtin")
    assert requested["estimated_s"] >= 1
    found = wait_until_complete(admin, requested["id"])
    assert found["cases_total"] == requested["cases_total"] == len(found["results"])
    assert found["cases_passed"] + found["cases_failed"] == found["cases_total"]
    assert found["score"] == round(found["cases_passed"] / found["cases_total"], 4)
    assert len(found["failures"]) == found["cases_failed"]
    assert all(failure["expected"] and failure["faults"] for failure in found["failures"])


def test_the_list_is_newest_first_and_has_pages(server: Server) -> None:
    ids = [*run_evals(server, "health", 1, 1), request(server.admin)]
    listed = server.admin.fetch("/evals", limit=2)
    assert [item["id"] for item in listed] == [ids[2], ids[1]]
    after = server.admin.fetch("/evals", limit=2, before=listed[-1]["number"])
    assert after[0]["id"] == ids[0]
    assert {item["status"] for item in server.admin.fetch("/evals", status="complete")} == {"complete"}
    assert server.admin.fetch("/evals", status="pending")[0]["id"] == ids[2]


def test_a_pending_evaluation_has_no_score_yet(server: Server) -> None:
    found = server.admin.fetch(f"/evals/{request(server.admin)}")
    assert (found["status"], found["score"], found["duration_s"], found["failures"]) == ("pending", 0.0, 0, [])


def test_regressions_compare_the_last_two_of_one_suite(server: Server) -> None:
    first, second = run_evals(server, "health", 4, 6)
    run_evals(server, "full", 1)
    request(server.admin)
    found = server.admin.fetch("/evals/regressions")
    assert (found["baseline"], found["current"]) == (first, second)
    assert (found["cases_compared"], found["score_delta"], found["regressions"]) == (4, 0.0, [])
    (third,) = run_evals(server, "health", 6)
    assert server.admin.fetch("/evals/regressions", baseline_id=first)["current"] == third
    assert server.admin.fetch("/evals/regressions", current_id=third)["baseline"] == second
    back = server.admin.fetch("/evals/regressions", baseline_id=third, current_id=first)
    assert (back["baseline"], back["current"]) == (third, first)


def test_only_complete_evaluations_are_compared(server: Server) -> None:
    (complete,) = run_evals(server, "health", 1)
    pending = request(server.admin)
    for query in ({"baseline_id": pending}, {"current_id": pending}, {"baseline_id": complete, "current_id": pending}):
        refused = server.admin.when("GET", "/evals/regressions", params=query).then(409)
        assert f"Evaluation {pending} is pending" in refused["detail"]
    server.admin.when("GET", "/evals/regressions", params={"baseline_id": "eval-0"}).then(404)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"suite": "everything"}, "suite"),
        ({}, "suite"),
        ({"suite": "health", "sample_size": 0}, "sample_size"),
        ({"suite": "health", "model_override": "gpt-unknown"}, "model_override"),
    ],
)
def test_what_cannot_be_run(server: Server, body: dict[str, object], field: str) -> None:
    refused = server.admin.when("POST", "/evals/runs", json=body).then(422)
    assert refused["errors"][0]["field"] == field


def test_the_request_of_the_reference_runs_with_a_model_that_the_operator_allows(server: Server) -> None:
    example = DOCUMENTED["POST", "/api/v3/evals/runs"].request_example
    assert example is not None
    models: dict[str, str | int] = {"ai_model": "gpt-4o", "ai_models": example["model_override"]}
    with serve_in_process(server, ai_provider="openai", ai_key="k", **models) as inside:
        client = inside.client(*ADMIN)
        started = client.when("POST", "/evals/runs", json=example).then(202)
        assert (started["model"], started["cases_total"], started["estimated_s"]) == ("gpt-4o-mini", 50, 200)
        configured = client.when("POST", "/evals/runs", json={"suite": "chat", "sample_size": 2}).then(202)
        assert (configured["model"], configured["estimated_s"]) == ("gpt-4o", 8)
        refused = client.when("POST", "/evals/runs", json=example | {"model_override": "gpt-5"}).then(422)
        assert "gpt-4o, gpt-4o-mini" in refused["detail"]


def request(admin: Client) -> str:
    return str(admin.when("POST", "/evals/runs", json={"suite": "health", "sample_size": 1}).then(202)["id"])


def wait_until_complete(admin: Client, eval_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found: dict[str, Any] = admin.fetch(f"/evals/{eval_id}")
        if found["status"] == "complete":
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
