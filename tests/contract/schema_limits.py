"""What no schema of an operation says, but the server refuses: rules between fields, and what the state forbids.

A request that fits the schema may be refused only by a rule that is listed here, with the reason beside it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import schemathesis
from schemathesis.core.transport import Response


class Limit(NamedTuple):
    operations: str
    """Pattern of the operations, without `/api/v3`."""
    field: str
    """Pattern of the field that the server names; of the detail, if it names none."""
    message: str
    """Pattern of the beginning of what the server says about the field."""
    why: str


PAGED = "one of two ways through a list: pages, or what follows an item"
TWO_FIELDS = "a rule between two fields"
EXACTLY_ONE = "exactly one of several fields is needed, and null counts as left out"
BY_TYPE = "the type of the endpoint decides which fields are needed, and in which form"
BY_STATE = "what is there decides, not the request alone"
LIMITS = (
    Limit(".*", "page", "is not possible with", PAGED),
    Limit(".*", r"\w*_ids?|[\w.]+_id|needs\[\d+\]|memberships.*", "there is no ", BY_STATE),
    Limit(".*", "as_of", "lies in the future|is beyond the newest position", BY_STATE),
    Limit("GET /builds/{build_id}/pipeline_logs", "offset|limit", "is not possible with", TWO_FIELDS),
    Limit("GET /builds", "group_id|commit_sha", "is not possible with", TWO_FIELDS),
    Limit("GET /audit/consistency", "first|second", "must not be smaller than|is beyond", TWO_FIELDS),
    Limit("GET /audit/(events|export)", "after|until", "is behind the checkpoint|must be later", BY_STATE),
    Limit("GET /audit/events", "type", r"[\w.]+ is of the area", TWO_FIELDS),
    Limit("GET /audit/events", "stream", "[Tt]here is no", BY_STATE),
    Limit("POST /quarantine/bulk", "reason|expires_at|owner", "is for entries that are added", TWO_FIELDS),
    Limit("GET /test-cases", "project_id", "is required, or .* instead of it; not both", EXACTLY_ONE),
    Limit("(POST|PUT) /known-issues.*", "pattern|signature|fail_id", "exactly one of", EXACTLY_ONE),
    Limit("POST /audit/replay", "known_issues|quarantine", "is required, or", "one of two fields is needed"),
    Limit("POST /audit/replay", r"known_issues\[\d+\]", "must have exactly one of", EXACTLY_ONE),
    Limit("POST /jobs/{job_id}/split", "tests|files", "is required, or|is not possible together", EXACTLY_ONE),
    Limit("POST /jobs/import", r"bundle\.export_version", "must be ", "a bundle is what an export has answered"),
    Limit(
        "POST /jobs/{job_id}/triggers/explain",
        "branch|fork",
        "is needed, unless|has no effect with|is about a pull",
        TWO_FIELDS,
    ),
    Limit("PUT /jobs/{job_id}/triggers", r"\w+", "must have a glob without `!`|have no effect without", TWO_FIELDS),
    Limit("PUT /jobs/{job_id}/triggers", r"\w+\[\d+\]", "is given twice", "equal items of a list"),
    Limit("PUT /jobs/{job_id}/triggers", r"cron.*", "names a time that never comes", "days that a month has not"),
    Limit("PUT /jobs/{job_id}/configuration", r"matrix.*", "", "a matrix is checked as a whole: entries name its axes"),
    Limit("(POST|PUT) /jobs(/{job_id})?", "pool_labels|node_pool_id", "are instead of|is instead of", TWO_FIELDS),
    Limit("POST /builds/start", "env|secrets|external|matrix", "", "external builds run elsewhere: no variables"),
    Limit("POST /builds/{build_id}/log", "text", "must end with a line break", "the line break may be anywhere else"),
    Limit("(POST|PUT) /scm(/{id})?", "repo|host|token|app_id|installation_id", "", BY_TYPE),
    Limit("PUT /vcenter/{id}", "password", "must be given again", TWO_FIELDS),
    Limit("PUT /jira/{id}", "api_token", "must be given again", TWO_FIELDS),
    Limit("POST /webhooks/{id}/replay", "position|since", "give either", EXACTLY_ONE),
    Limit("POST /artifacts/upload", "replace", "is possible for test reports", BY_STATE),
    Limit("GET /test-cases", "after", "must be from the `Link`", BY_STATE),
    Limit("POST /webhooks/{id}/replay", "position|since", "is beyond|lies in the future", BY_STATE),
    Limit("POST /users|PUT /users/{user_id}", "memberships|project_ids", "are instead of", TWO_FIELDS),
    Limit("POST /users|PUT /users/{user_id}", "memberships", "name a project twice", "equal items of a list"),
    Limit(
        "(POST|PUT) /identity-providers(/{id})?",
        "metadata|metadata_url|entity_id|sso_url|certificates",
        "is missing|is instead of|must be X.509|is no SAML metadata",
        "one of three descriptions of the provider, whose certificates and XML are read",
    ),
    Limit(
        "POST /docker-agents/spawn|PUT /node-pools/{id}/autoscaling",
        r"(docker\.)?(host|image)",
        "is not one of the (Docker hosts|images)",
        "the operator's settings decide",
    ),
    Limit("POST /(ai|evals)/.*", "model_override", "is not one of the models", "the operator's settings decide"),
    Limit("PUT /node-pools/{id}/autoscaling", "docker|vcenter", "must be given|must not be given", EXACTLY_ONE),
    Limit("PUT /node-pools/{id}/autoscaling", "minimum", "must not be", TWO_FIELDS),
    Limit("POST /quarantine.*", "expires_at", "is in the past", "the time decides"),
    Limit("POST /api-tokens", "expires_at", "is in the past|must be", "the time decides"),
    Limit("POST /me/password", "current_password", "is not the password", BY_STATE),
    Limit("POST /(me/password|reset-password/confirm)", "new_password", "is one of the commonest", "a long list"),
    Limit("POST /reset-password/confirm", "token", "is not valid", BY_STATE),
)
TUPLES = Limit("POST /agent/builds/{build_id}/log", r"lines\[\d+\]", "must be an object", "tuples are made as lists")
PYTHONS_SPACES = re.compile("[\x1c-\x1f\x85\ufeff]")
"""Characters that are spaces either for Python or for JSON Schema. `\\s` of a pattern stands for other characters here
and there.
"""


def is_explained(label: str, case: schemathesis.Case[Any], answer: Response) -> bool:
    """Returns whether a listed rule refused a request whatever its schema says."""
    if answer.status_code == 416:
        return True  # a range behind the end of a file, of which no schema tells the size
    if answer.status_code != 422:
        return False
    if any(PYTHONS_SPACES.search(text) for text in _texts((case.path_parameters, case.query, case.body))):
        return True
    problem = json.loads(answer.content)
    faults = [(error["field"], error["message"]) for error in problem.get("errors", ())]
    return all(_is_listed(label.replace("/api/v3", ""), *fault) for fault in faults or [("", problem["detail"])])


def _is_listed(label: str, field: str, message: str) -> bool:
    return any(
        re.fullmatch(limit.operations, label) and re.fullmatch(limit.field, field) and re.match(limit.message, message)
        for limit in (*LIMITS, TUPLES)
    )


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            yield from (text for item in value.items() for text in _texts(item))
        case list() | tuple():
            yield from (text for item in value for text in _texts(item))


def write_whole_numbers(case: schemathesis.Case[Any]) -> None:
    """Writes 5.0 as `5` in the address of a request: to JSON Schema they are one number, but an address has digits."""
    for parameters in (case.path_parameters, case.query):
        for name, value in (parameters or {}).items():
            if isinstance(value, float) and value.is_integer():
                parameters[name] = int(value)
