"""Types and checks of values that users enter for jobs and builds: commands, variables, globs, repositories, labels."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated
from urllib.parse import unquote

import msgspec
from msgspec import Meta

from commands.value_checks import ValueCheck, described_as
from commands.verdicts import TEST_FAILURE_EXIT_CODES
from domain.core.errors import FieldError, Invalid, collect_errors
from domain.endpoints import may_be_token
from domain.jobs import CheckoutOptions, DependencyCache, ShellName

Command = Annotated[str, Meta(min_length=1, max_length=65_536, pattern=r"\S")]
SetupLine = Annotated[str, Meta(max_length=65_536)]
Glob = Annotated[str, Meta(min_length=1, max_length=1_000)]
Value = Annotated[str, Meta(max_length=65_536)]
Branch = Annotated[
    str, Meta(min_length=1, max_length=255, pattern=r"^[^-\s~^:?*\[\\][^\s~^:?*\[\\]*\Z", description="a branch of git")
]
Tag = Annotated[
    str,
    Meta(min_length=1, max_length=100, pattern=r"^\S+\Z", description="a tag of 1 to 100 characters without spaces"),
]
Tags = Annotated[list[Tag], Meta(max_length=100)]
Label = Annotated[str, Meta(max_length=200)]
Minutes = Annotated[int, Meta(ge=1, le=10_080)]
Parallel = Annotated[int, Meta(ge=1, le=1_000)]

MAX_LABELS = 100
MAX_VARIABLES = 500
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
NAMES = {"propertyNames": {"type": "string", "pattern": f"^{VARIABLE.pattern}$", "maxLength": 200}}
"""JSON Schema of an object whose keys are names of environment variables."""
SET_BY_AGENTS = frozenset(
    f"TESTHIDE_{name}"
    for name in (
        *("BUILD_ID", "JOB_ID", "JOB_NAME", "PROJECT_ID", "BRANCH", "COMMIT", "WORKSPACE"),
        *("TEST_IDS_FILE", "QUARANTINE_FILE", "IGNORE_FAILURES_FILE", "PYTEST_RUNNING", "UNITTEST_RUNNING"),
        *("SHARD_FILE", "OTHER_SHARDS_FILE"),
    )
)
"""Environment variables that a job cannot set, because agents set them. If a job could set them, its builds might run
without their selection of tests or their quarantine, and no message would say so.
"""
HOST = r"[A-Za-z0-9\[][^\s/@]*"
REPOSITORY = re.compile(
    rf"https?://(?:[^\s/@:]+@)?{HOST}/\S+"  # may have a user name, but no password
    rf"|ssh://(?:[A-Za-z0-9._][^\s/@:]*@)?{HOST}/\S+"
    rf"|[A-Za-z0-9._][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s:-][^\s]*"
    r"|file:///[^\0-\x1f\x7f]+"
    r"|/[^\0-\x1f\x7f]+"
)
ADDRESS = re.compile(r"(?:(?:https?|ssh)://)?(?:(?P<user>[^\s/@:]+)@)?(?P<rest>[^/].*)", re.DOTALL)
EXIT_CODES = re.compile(r" *[1-9][0-9]{0,2} *(, *[1-9][0-9]{0,2} *)*")
MAX_EXIT_CODE = 255
CLOSED_BRACKETS = re.compile(r"(?:[^\[]|\[!?+\]?+[^\]]*+\])*", re.DOTALL)
"""Matches a glob in which every bracket is closed. In `[]]`, `[!]]` and `[[]`, the inner bracket is an ordinary
character.
"""
CHECKSUM = re.compile(r"""\{\{ *checksum +"([^"{}]+)" *\}\}""")
"""Matches a part of a cache key that is replaced by the SHA-256 of a file in the checkout."""


def shorten_branch(name: str, external: bool = False) -> str:
    """Returns the short name of a branch, such as `main` for `refs/heads/main`. So all builds of a branch have one
    branch name, whichever name somebody started them with. For an external build, `origin/main` becomes `main`, too,
    since checkouts of other CI systems use this name.
    """
    prefixes = ("refs/heads/", "refs/remotes/origin/", "origin/") if external else ("refs/heads/",)
    return next((name[len(prefix) :] for prefix in prefixes if name.startswith(prefix)), "") or name


def check_parts(
    prefix: str,
    env: Iterable[str],
    secrets: Iterable[str],
    artifacts: list[str],
    caches: Sequence[DependencyCache] = (),
) -> None:
    """Raises Invalid for values that have the right type but do not make sense, such as a glob with an open bracket.
    The error names the fields of all such values, each with `prefix` before its name.
    """
    checks: list[Callable[[], None]] = [
        partial(check_variables, f"{prefix}env", env),
        partial(check_variables, f"{prefix}secrets", secrets),
        *(partial(check_glob, f"{prefix}artifacts[{number}]", glob) for number, glob in enumerate(artifacts)),
        *(partial(check_cache, f"{prefix}caches[{number}]", cache) for number, cache in enumerate(caches)),
    ]
    errors: list[FieldError] = []
    for check in checks:
        with collect_errors(errors):
            check()
    if errors:
        raise Invalid.fields(errors)


def check_variables(field: str, names: Iterable[str]) -> None:
    given = list(names)
    if len(given) > MAX_VARIABLES:
        raise Invalid.field(field, f"must have at most {MAX_VARIABLES} entries")
    errors = []
    for name in given:
        if not VARIABLE.fullmatch(name) or len(name) > 200:
            wrong = "is no name of a variable: letters, digits and _, not first a digit"
            errors.append(FieldError(f"{field}.{name[:50]}", wrong))
        elif name in SET_BY_AGENTS:
            errors.append(FieldError(f"{field}.{name}", "is set by the agent in each build: choose another name"))
    codes = names.get(TEST_FAILURE_EXIT_CODES) if isinstance(names, Mapping) else None
    if codes and not (EXIT_CODES.fullmatch(codes) and max(map(int, codes.split(","))) <= MAX_EXIT_CODE):
        wrong = "must list the exit codes, from 1 to 255, by which the test runner says that tests failed, such as 1,2"
        errors.append(FieldError(f"{field}.{TEST_FAILURE_EXIT_CODES}", wrong))
    if errors:
        raise Invalid.fields(errors)


def check_glob(field: str, glob: str) -> None:
    parts = re.split(r"[/\\]", glob)
    if not parts[0] or ".." in parts or re.match(r"[A-Za-z]:", glob) or not glob.isprintable():
        raise Invalid.field(field, "must be a path inside the workspace: not absolute, without `..`")
    if glob != glob.strip():
        raise Invalid.field(field, "must not begin or end with a space, since it would match no file")
    if not all(CLOSED_BRACKETS.fullmatch(part) for part in parts):
        raise Invalid.field(
            field, "must close each `[` by a `]` before the next `/`; `[[]` stands for the character `[`"
        )


def check_cache(field: str, cache: DependencyCache) -> None:
    """Raises Invalid for a key with an unknown part, and for paths outside the workspace and the home folder."""
    errors: list[FieldError] = []
    rest = CHECKSUM.sub("", cache.key)
    if "{{" in rest or "}}" in rest or not cache.key.isprintable():
        wrong = 'must be text of one line; of parts in {{ }} there is one: {{ checksum "FILE" }}'
        errors.append(FieldError(f"{field}.key", wrong))
    for name in CHECKSUM.findall(cache.key):
        with collect_errors(errors):
            check_inside(f"{field}.key", name)
    for number, path in enumerate(cache.paths):
        with collect_errors(errors):
            check_inside(f"{field}.paths[{number}]", path.removeprefix("~/"))
    if errors:
        raise Invalid.fields(errors)


def check_inside(field: str, path: str) -> None:
    parts = path.split("/")
    if not parts[0] or parts[0].startswith("~") or ".." in parts or not path.isprintable():
        raise Invalid.field(field, "must be a path inside the workspace, or after `~/`: not absolute, without `..`")


def check_repository(field: str, repository: str) -> None:
    """Raises Invalid for a repository in an unknown form. Also raises Invalid for an address that may contain a token,
    since everybody who sees the job sees the address. Each agent decides which of the known forms it accepts.
    """
    if not REPOSITORY.fullmatch(repository):
        raise Invalid.field(
            field,
            "must be an https:// or ssh:// address, user@host:path, file:// or an absolute path, without a password",
        )
    if address := ADDRESS.match(repository):
        user, rest = address.group("user", "rest")
        if (user and may_be_token(unquote(user))) or "?" in rest or "#" in rest:
            raise Invalid.field(
                field,
                "may hold a token, which everybody who sees the job would see: leave out what stands before the @, and"
                " what stands after ? and #; let git on the agent's machine have the credentials, and if this was a"
                " token, replace it",
            )


def check_labels(field: str, labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise Invalid.field(field, f"must have at most {MAX_LABELS} entries")


Repository = Annotated[
    str,
    Meta(min_length=1, max_length=2_000),
    ValueCheck(check_repository),
    described_as(format="git-repository"),
]
Labels = Annotated[dict[Label, Label], ValueCheck(check_labels), described_as(maxProperties=MAX_LABELS)]
Variables = Annotated[dict[str, Value], ValueCheck(check_variables), described_as(**NAMES, maxProperties=MAX_VARIABLES)]
SecretChanges = Annotated[
    Annotated[dict[str, Value | None], described_as(**NAMES, maxProperties=MAX_VARIABLES)]
    | Annotated[list[Annotated[str, described_as(**NAMES["propertyNames"])]], described_as(maxItems=MAX_VARIABLES)],
    ValueCheck(check_variables),
]
"""Values by name; null removes a secret. A list of names, as GET returns it, changes nothing."""
Artifacts = Annotated[
    list[Annotated[Glob, ValueCheck(check_glob), described_as(format="workspace-glob")]], Meta(max_length=100)
]
Caches = Annotated[list[Annotated[DependencyCache, ValueCheck(check_cache)]], Meta(max_length=20)]


class BuildOptions(msgspec.Struct, kw_only=True):
    """Options of builds that both jobs and templates have."""

    shell: ShellName | None = None
    checkout: CheckoutOptions | None = None
    caches: Caches = []
