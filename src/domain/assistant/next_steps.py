"""Next step after a diagnosis: one request to the API that deals with the cause."""

import re

from domain.assistant.answers import NextStep
from domain.assistant.diagnoses import Diagnosis
from domain.assistant.evidence import BuildFacts, Evidence

LEAST_CONFIDENCE = 0.4
"""Least confidence of a diagnosis with which a next step is proposed."""
MAX_TITLE = 100
"""Largest number of characters of the title of a known issue that is proposed."""
_SIGNATURE = re.compile(r"[0-9a-f]{16}")


def find_next_step(evidence: Evidence, diagnosis: Diagnosis) -> NextStep | None:
    """Returns the request that deals with the cause of a build's failures. Returns None if no single request does, or
    if the diagnosis is too uncertain.
    """
    build, cause = evidence.build, diagnosis.cause
    if build is None or build.status != "failed" or diagnosis.confidence < LEAST_CONFIDENCE:
        return None
    match cause.classification:
        case "flaky":
            return _quarantine(diagnosis, build.job_id) or _rerun(build, diagnosis)
        case "infra":
            return _rerun(build, diagnosis)
        case "product_bug" | "test_bug":
            return _make_known(evidence, diagnosis)
        case _:
            return None


def _quarantine(diagnosis: Diagnosis, job_id: int) -> NextStep | None:
    names = list(dict.fromkeys(test.name for test in diagnosis.tests if not test.is_quarantined))
    if not names:
        return None
    body = {"job_id": job_id, "action": "add", "node_ids": names, "reason": "flaky"}
    which = names[0] if len(names) == 1 else f"these {len(names)} tests"
    return NextStep("quarantine", f"Quarantine {which} until mended.", "POST", "/quarantine/bulk", body)


def _rerun(build: BuildFacts, diagnosis: Diagnosis) -> NextStep:
    lasting = next((other.began for other in diagnosis.others if other.began is not None), None)
    stays = ""
    if lasting is not None and lasting.commit_sha:
        stays = f" What came with commit {lasting.commit_sha[:12]} will fail again: look at that commit, too."
    # If results may be missing, the server refuses to run the failed tests only.
    if build.reason == "tests_failed":
        text, body = f"Run the failed tests of the build again.{stays}", {"failed_only": True}
        return NextStep("rerun", text, "POST", f"/builds/{build.id}/restart", body)
    return NextStep("rerun", f"Run the build again.{stays}", "POST", f"/builds/{build.id}/restart")


def _make_known(evidence: Evidence, diagnosis: Diagnosis) -> NextStep | None:
    """Returns the request that creates a known issue by the signature of the first failure. Returns None if one of the
    failures already has a known issue, or the first has no signature.
    """
    cause = diagnosis.cause
    if not diagnosis.tests or any(test.known_issue_id is not None for test in diagnosis.tests):
        return None
    test = diagnosis.tests[0]
    if not _SIGNATURE.fullmatch(test.signature):
        return None
    body = {
        "project_id": evidence.question.project_id,
        "title": " ".join(cause.root_cause.split())[:MAX_TITLE],
        "classification": cause.classification,
        "signature": test.signature,
    }
    what = "the first of these failures" if diagnosis.is_joined else "it"
    text = f"Make {what} a known issue, so that later failures are recognised."
    if cause.began is not None and cause.began.commit_sha:
        text = (
            f"Look at commit {cause.began.commit_sha[:12]}, with which it began. If that takes longer, make {what}"
            " a known issue, so that later failures are recognised."
        )
    return NextStep("known_issue", text, "POST", "/known-issues", body)
