"""Strategies for the formats of texts that the API's description names, as people write them: schemathesis draws texts
of these formats from them. They are written from the documentation, not from the server's checks.
"""

import string
import zoneinfo
from datetime import UTC, datetime

import schemathesis
from hypothesis import strategies as st

WORD = st.text(st.sampled_from(string.ascii_letters + string.digits + "._-é中"), min_size=1, max_size=12).filter(
    lambda word: word not in (".", "..") and not word.startswith("-")
)
"""Names of files and folders, as far as nothing in them has a meaning of its own."""
WILDCARDS = st.sampled_from(["*", "?", "[a-c]", "[!a-c]", "[[]"])
HOST = st.sampled_from(["127.0.0.1:9", "127.0.0.1", "127.0.0.2:8443"])
"""Hosts that the tests may call; nobody answers there."""
PATH = st.lists(WORD, min_size=1, max_size=4).map("/".join)
SECOND = "T%H:%M:%SZ"


def glob(exclusions: str = "") -> st.SearchStrategy[str]:
    part = st.lists(st.one_of(WORD, WILDCARDS), min_size=1, max_size=3).map("".join).filter(lambda part: part != "..")
    path = st.lists(st.one_of(part, st.just("**")), min_size=1, max_size=4).map("/".join)
    return st.tuples(st.sampled_from(["", exclusions]), path).map("".join)


def _number(low: int, high: int) -> st.SearchStrategy[str]:
    one = st.integers(low, high)
    several = st.tuples(one, one).map(sorted)
    return st.one_of(
        st.just("*"),
        one.map(str),
        several.map(lambda pair: f"{pair[0]}-{pair[1]}"),
        st.integers(1, high).map(lambda step: f"*/{step}"),
        st.lists(one, min_size=1, max_size=3).map(lambda numbers: ",".join(map(str, numbers))),
    )


CRON = st.tuples(_number(0, 59), _number(0, 23), _number(1, 28), _number(1, 12), _number(0, 6)).map(" ".join)
SUBEXPRESSION = st.sampled_from(
    ["timeout", r"\d+", "[a-f0-9]+", "(?:a|b)", ".*", r"\bE[0-9]{3}\b", "^", "x?", "(?i)no"]
)
FOLDER = st.sampled_from(["/srv/git/", "file:///srv/git/"])
USER = st.sampled_from(["", "git@"])
REPOSITORY = st.one_of(
    st.builds("https://{}{}/{}.git".format, USER, HOST, PATH),
    st.builds("ssh://{}{}/{}".format, USER, HOST, PATH),
    st.builds("git@example.com:{}".format, PATH),
    st.builds("{}{}".format, FOLDER, PATH),
)
MOMENT = st.one_of(
    st.just("1"),
    st.dates(datetime(2026, 1, 1).date(), datetime(2030, 1, 1).date()).map(str),
    st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1)).map(lambda at: at.strftime(f"%Y-%m-%d{SECOND}")),
)
TIME = st.datetimes(datetime(1970, 1, 2), datetime(8999, 12, 30)).map(lambda at: at.replace(tzinfo=UTC).isoformat())
FORMATS: dict[str, st.SearchStrategy[str]] = {
    "date-time": TIME,
    "glob": glob("!"),
    "workspace-glob": glob(),
    "workspace-path": st.tuples(st.sampled_from(["", "~/"]), PATH).map("".join),
    "artifact-path": st.tuples(PATH, st.sampled_from(["", "/"])).map("".join),
    "cache-key": st.lists(
        st.one_of(WORD, PATH.map(lambda path: f'{{{{ checksum "{path}" }}}}')), min_size=1, max_size=3
    ).map("-".join),
    "git-repository": REPOSITORY,
    "cron": CRON,
    "time-zone": st.sampled_from(sorted(zoneinfo.available_timezones())),
    "re2": st.lists(SUBEXPRESSION, max_size=3).map(lambda parts: "".join([*parts, "timeout"])),
    "https-url": st.builds("https://{}/{}".format, HOST, PATH).filter(str.isascii),
    "host-and-port": HOST,
    "moment": MOMENT,
    "stream-name": st.sampled_from(["job-1", "build-1", "project-1"]),
}


def register_formats() -> None:
    for name, strategy in FORMATS.items():
        schemathesis.openapi.format(name, strategy)
