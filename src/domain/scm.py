"""SCM endpoints: connections of a project to a repository at a source code host, such as GitHub."""

import re
from typing import ClassVar, Literal
from urllib.parse import urlsplit

import msgspec

from domain.core.data_keys import scm_key
from domain.core.events import Category, Event, changes_of, copy_fields

ScmType = Literal["github", "gitlab", "bitbucket", "git"]
"""Kind of host: `git` is any git server that is used without an API. These values are stored, so they must not change.
"""

PUBLIC_HOSTS = {"github": "github.com", "gitlab": "gitlab.com", "bitbucket": "bitbucket.org"}
"""Type -> public host. An endpoint whose `host` is empty has its repository at the public host."""


class ScmEvent(Event, frozen=True):
    scm_endpoint_id: int
    project_id: int

    @property
    def stream(self) -> str:
        return f"scm-{self.scm_endpoint_id}"

    @property
    def data_key(self) -> str | None:
        return scm_key(self.project_id, self.scm_endpoint_id)


class ScmEndpointCreated(ScmEvent, frozen=True):
    name: ClassVar[str] = "scm_endpoint.created"
    sealed: ClassVar[tuple[str, ...]] = ("title", "host", "repo", "sealed_token")
    type: ScmType
    title: str = ""
    host: str = ""
    """Base URL of a self-hosted server, without a slash at its end; empty for the public host of the type."""
    repo: str = ""
    """Path of the repository at the host (`owner/name`). For type `git`: URL or absolute path of the repository."""
    sealed_token: bytes | None = None
    """The encrypted token or, for a GitHub App, its encrypted private key. None for a repository that everybody may
    read.
    """
    app_id: int | None = None
    """Id of the GitHub App that signs in by its private key; None if the endpoint has a token or no credentials."""
    installation_id: int | None = None
    """Id of the GitHub App's installation in the account that owns the repository."""


class ScmEndpointUpdated(ScmEvent, frozen=True):
    """The endpoint was changed. A field that is None is unchanged."""

    name: ClassVar[str] = "scm_endpoint.updated"
    sealed: ClassVar[tuple[str, ...]] = ("title", "host", "repo", "sealed_token")
    title: str | None = None
    host: str | None = None
    repo: str | None = None
    sealed_token: bytes | None = None


class ScmEndpointDeleted(ScmEvent, frozen=True):
    name: ClassVar[str] = "scm_endpoint.deleted"
    destroys_key: ClassVar[bool] = True


class ScmEndpoint(msgspec.Struct, frozen=True):
    scm_endpoint_id: int
    project_id: int
    type: ScmType
    title: str
    host: str
    repo: str
    sealed_token: bytes | None
    app_id: int | None = None
    installation_id: int | None = None
    deleted: bool = False

    @property
    def shown_host(self) -> str:
        return show_host(self.type, self.host, self.repo)

    @property
    def clone_url(self) -> str:
        """URL, or absolute path, from which `git` fetches the repository; it contains no secret."""
        if self.type == "git":
            return self.repo
        if self.type == "bitbucket" and self.host:
            return f"{self.host}/scm/{self.repo}.git"
        return f"{self.host or f'https://{PUBLIC_HOSTS[self.type]}'}/{self.repo}.git"


def show_host(type: ScmType, host: str, repo: str) -> str:
    """Returns the name of the host, with its port if it has one; an empty text for a repository in a local folder."""
    if type == "git":
        return urlsplit(repo).netloc
    return urlsplit(host).netloc or PUBLIC_HOSTS[type]


def server_of(type: ScmType, host: str, repo: str) -> str:
    """Returns the base URL of the server to which a token is sent; an empty text for the public host of the type. All
    repositories of one server have the same base URL.
    """
    return "{0.scheme}://{0.netloc}".format(urlsplit(repo)) if type == "git" else host


def normalize_host(type: ScmType, text: str) -> str:
    """Returns the base URL of a host. `text` is what a user entered: a URL or a host name. Returns an empty text for
    the public host of the type.
    """
    url = (text if "://" in text else f"https://{text}").rstrip("/")
    public = PUBLIC_HOSTS.get(type)
    try:
        name = urlsplit(url).netloc.lower()
    except ValueError:  # no URL, which is refused later
        return url
    return "" if public is not None and name in (public, f"www.{public}", f"api.{public}") else url


def evolve(state: ScmEndpoint | None, event: Event) -> ScmEndpoint | None:
    match event:
        case ScmEndpointCreated():
            return copy_fields(ScmEndpoint, event)
        case ScmEndpointUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes_of(event))
        case ScmEndpointDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


_GIT_SUFFIX = re.compile(r"(\.git)?/*$")


def is_same_repository(one: str, other: str) -> bool:
    """Returns whether two https URLs lead to the same repository. Ignores user names and passwords, the case of host
    names, and `.git` at the end.
    """
    first, second = urlsplit(one), urlsplit(other)
    return (
        first.scheme == second.scheme
        and first.netloc.rpartition("@")[2].lower() == second.netloc.rpartition("@")[2].lower()
        and _GIT_SUFFIX.sub("", first.path) == _GIT_SUFFIX.sub("", second.path)
    )


SCM_ENDPOINT = Category[ScmEndpoint | None]("scm", None, evolve)
EVENTS = (ScmEndpointCreated, ScmEndpointUpdated, ScmEndpointDeleted)
