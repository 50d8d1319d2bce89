"""Query strings say what is wrong with them, all of it at once, and nothing of them is ignored."""

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

import pytest
from msgspec import Meta

from api.http.query_parameters import NO_PAST, find_errors, to_parameter
from tests.support.server import Server

ShortText = Annotated[str, Meta(max_length=5)]
FewNumbers = Annotated[list[int], Meta(max_length=2)]
KNOWN = {
    "limit": to_parameter(Annotated[int, Meta(ge=1, le=200)], False),
    "status": to_parameter(Literal["passed", "failed"] | None, False),
    "search": to_parameter(ShortText | None, False),
    "active": to_parameter(bool | None, False),
    "since": to_parameter(datetime | None, False),
    "held": to_parameter(FewNumbers | None, False),
    "type": to_parameter(list[str] | None, False),
}
NUMBER = "must be a whole number from 1 to 200, not "
TIME = "must be a time with its offset, like 2026-05-20T14:00:00Z, or a date, not "


def errors(query: str, **required: Any) -> dict[str, str]:
    known = KNOWN | {name: to_parameter(expected, True) for name, expected in required.items()}
    return dict(find_errors(parse_qsl(query, keep_blank_values=True), known))


@pytest.mark.parametrize("text", ["1", "99", "200"])
def test_numbers(text: str) -> None:
    assert errors(f"limit={text}") == {}


@pytest.mark.parametrize(
    "text", ["0", "201", "-1", "+1", " 1", "1 ", "1_0", "1.0", "1e2", "0x1", "007", "１", "٣", "", "null"]
)
def test_what_is_no_number_in_plain_digits(text: str) -> None:
    sent = text.replace("+", "%2B")
    assert errors(f"limit={sent}") == {"limit": f'{NUMBER}"{text}"'}


@pytest.mark.parametrize(
    "text", ["2026-05-20", "2026-05-20T10:00:00Z", "2026-05-20t10:00:00.5z", "2026-05-20T10:00:00%2B02:00"]
)
def test_times(text: str) -> None:
    assert errors(f"since={text}") == {}


@pytest.mark.parametrize(
    "text", ["1747735200", "2026-05-20T10:00:00", "2026-05-20T10:00", "2026-13-40", "2026-5-2", "20260520", "now", ""]
)
def test_what_is_no_time(text: str) -> None:
    assert errors(f"since={text}") == {"since": f'{TIME}"{text}"'}


def test_an_offset_that_the_url_turned_into_a_space() -> None:
    found = errors("since=2026-05-20T10:00:00+02:00")
    assert found == {"since": f'{TIME}"2026-05-20T10:00:00 02:00"; write `+` as `%2B`'}


@pytest.mark.parametrize("name", ["status", "active", "since"])
def test_null_is_no_way_to_leave_a_parameter_out(name: str) -> None:
    assert errors(f"{name}=null")[name].endswith(', not "null"')


def test_all_at_once() -> None:
    assert errors("limit=x&status=green&search=too+long&active=maybe&sttus=1&status=failed", build_id=int) == {
        "build_id": "is required",
        "limit": f'{NUMBER}"x"',
        "status": "is given 2 times; give it once",
        "search": 'must be a text of at most 5 characters, not "too long"',
        "active": 'must be true or false, not "maybe"',
        "sttus": "is not known here; did you mean status?",
    }


def test_lists_are_given_more_than_once() -> None:
    assert errors("held=1&held=2&type=a&type=b&type=c") == {}
    assert errors("held=1&held=x") == {"held": 'must be a whole number, not "x"'}
    assert errors("held=1&held=2&held=3") == {"held": "is given 3 times; give it at most 2 times"}


def test_the_past_is_refused_where_there_is_none() -> None:
    assert errors("as_of=5") == {"as_of": NO_PAST}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/builds?limit=+1&status=green&page=1&page=2&shape=round", ["limit", "status", "page", "shape"]),
        ("/tests?buildid=1&as_of=2&as_of=3", ["build_id", "buildid", "as_of"]),
        ("/builds/1?build_id=1", ["build_id"]),
        ("/builds?branch=", ["branch"]),
        ("/jobs?as_of=1&enabled=perhaps", ["as_of", "enabled"]),
    ],
)
def test_the_server_names_all_of_them(server: Server, path: str, fields: list[str]) -> None:
    answer = server.admin.get(f"/api/v3{path}")
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == fields


def test_a_date_is_midnight_utc_wherever_a_time_is_taken(server: Server, job: int) -> None:
    """Nothing can lie between a date and its midnight, and `until` must be later than `since`."""
    for date, midnight in (("2026-05-20", "2026-05-20T02:00:00%2B02:00"), ("2026-05-20T00:00:00Z", "2026-05-20")):
        answer = server.admin.get(f"/api/v3/audit/events?since={date}&until={midnight}")
        assert answer.json()["errors"] == [{"field": "until", "message": "must be later than `since`"}]
    entry = {"job_id": job, "node_id": "tests/a.py::b", "reason": "flaky", "expires_at": "2099-01-02"}
    made = server.admin.create("/quarantine", **entry)
    assert made["expires_at"] == "2099-01-02T00:00:00Z"
    assert server.admin.fetch("/builds", job_id=job, created_after="2026-01-01")["total"] == 0
    past = server.admin.get(f"/api/v3/jobs/{job}?as_of=2000-01-01")
    assert past.status_code == 404, "the job was made later"


@pytest.mark.parametrize("spelling", ["+{}", "0{}", "%20{}", "{}_0", "{}.0", "{}%20"])
def test_an_id_has_one_address(server: Server, job: int, spelling: str) -> None:
    assert server.admin.get(f"/api/v3/jobs/{job}").status_code == 200
    assert server.admin.get(f"/api/v3/jobs/{spelling.format(job)}").status_code == 404


def test_an_id_is_written_in_ascii(server: Server, job: int) -> None:
    wide = "".join(chr(ord("０") + int(digit)) for digit in str(job))
    assert server.admin.get(f"/api/v3/jobs/{wide}").status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "builds?page=2&before=9",
        "projects?page=2&after=9",
        "tests?build_id=1&page=2&after=9",
        "quarantine?job_id=1&page=2&after=9",
    ],
)
def test_a_page_beside_the_id_to_go_on_from(server: Server, query: str) -> None:
    answer = server.admin.get(f"/api/v3/{query}")
    assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, ["page"])
