"""Opens the repository of an SCM endpoint with the adapter for its type. Checks the fields of an endpoint that a user
enters.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from domain.core.errors import FieldError, Invalid, collect_errors
from domain.scm import ScmEndpoint
from integrations.ports import Outgoing, Refused
from integrations.scm.bitbucket import BitbucketRepository
from integrations.scm.bitbucket_data_center import DataCenterRepository
from integrations.scm.git import MAX_PROGRAMS, GitRepository, find_folder
from integrations.scm.github import GitHubRepository
from integrations.scm.github_apps import GitHubApps, check_private_key
from integrations.scm.gitlab import GitLabRepository
from integrations.source_ports import NewSource, SourceForbidden, SourceHost

_PART = r"(?!\.{1,2}(/|\Z))[A-Za-z0-9_.~-]+"
_REPOS = {
    "github": (re.compile(rf"{_PART}/{_PART}"), "owner/name"),
    "gitlab": (re.compile(rf"{_PART}(/{_PART})+"), "group/name"),
    "bitbucket": (re.compile(rf"{_PART}/{_PART}"), "workspace/name, or PROJECT/name"),
}
_TOKEN = re.compile(r"[\x21-\x7e]+")


class ScmHosts:
    """Implements `SourceHosts`. `unseal` decrypts sealed tokens. `folders` are the folders in which repositories of the
    type `git` may lie.
    """

    def __init__(self, outgoing: Outgoing, unseal: Callable[[bytes], str], folders: Sequence[Path] = ()) -> None:
        self._outgoing, self._unseal, self._folders = outgoing, unseal, folders
        self._apps = GitHubApps(outgoing)
        self._git_slots = asyncio.Semaphore(MAX_PROGRAMS)

    async def check(self, endpoint: NewSource, *, is_admin: bool) -> None:
        errors: list[FieldError] = []
        if endpoint.app_id is not None and endpoint.type != "github":
            errors.append(FieldError("app_id", "is only for the type github"))
        if endpoint.token is not None:
            with collect_errors(errors):
                _check_token(endpoint.token, is_key=endpoint.app_id is not None)
        if endpoint.type == "git":
            with collect_errors(errors):
                await self._check_git(endpoint, is_admin=is_admin)
        else:
            form, example = _REPOS[endpoint.type]
            if not form.fullmatch(endpoint.repo) or endpoint.repo.endswith(".git"):
                wrong = f"must be the path of the repository, such as {example}, without .git"
                errors.append(FieldError("repo", wrong))
            if endpoint.host:
                with collect_errors(errors):
                    await self._check_url("host", endpoint.host, is_admin=is_admin)
        if errors:
            raise Invalid.fields(errors)

    async def _check_git(self, endpoint: NewSource, *, is_admin: bool) -> None:
        if endpoint.host:
            raise Invalid.field("host", "is part of `repo` in the type git: leave it out")
        if not endpoint.repo.startswith("/"):
            await self._check_url("repo", endpoint.repo, is_admin=is_admin)
        elif find_folder(endpoint.repo, self._folders) is None:
            raise Invalid.field("repo", _not_allowed(endpoint.repo))
        elif endpoint.token is not None:
            raise Invalid.field("token", "is not needed for a repository in a folder of the server: leave it out")

    async def _check_url(self, field: str, text: str, *, is_admin: bool) -> None:
        try:
            await self._outgoing.check(text, is_admin=is_admin)
        except Refused as error:
            raise Invalid.field(field, str(error)) from None
        if urlsplit(text).query or urlsplit(text).fragment:
            raise Invalid.field(field, "has a ? or a #: leave out what begins with it")

    def open(self, endpoint: ScmEndpoint) -> SourceHost:
        token = "" if endpoint.sealed_token is None else self._unseal(endpoint.sealed_token)
        outgoing, host, repo = self._outgoing, endpoint.host, endpoint.repo
        match endpoint.type:
            case "github":
                return GitHubRepository(outgoing, host, repo, self._token_source(endpoint, token))
            case "gitlab":
                return GitLabRepository(outgoing, host, repo, token)
            case "bitbucket" if host:
                return DataCenterRepository(outgoing, host, repo, token)
            case "bitbucket":
                return BitbucketRepository(outgoing, repo, token)
            case "git":
                folder = find_folder(repo, self._folders) if repo.startswith("/") else None
                if folder is None and repo.startswith("/"):
                    raise SourceForbidden(f"The repository {_not_allowed(repo)}.")
                return GitRepository(outgoing, repo, token, folder, self._git_slots)

    def _token_source(self, endpoint: ScmEndpoint, token: str) -> Callable[[], Awaitable[str]]:
        async def fetch_token() -> str:
            if endpoint.app_id is None or endpoint.installation_id is None:
                return token
            return await self._apps.fetch_token(endpoint.host, endpoint.app_id, endpoint.installation_id, token)

        return fetch_token


def _check_token(token: str, *, is_key: bool) -> None:
    if is_key:
        try:
            check_private_key(token)
        except ValueError:
            raise Invalid.field("token", "must be the private key of the GitHub App, as PEM") from None
    elif not _TOKEN.fullmatch(token):
        raise Invalid.field("token", "has a space, a line break or a character that is not ASCII")


def _not_allowed(path: str) -> str:
    return f"{path} is in no folder of the server that the operator allows by TESTHIDE_LOCAL_REPOSITORIES"
