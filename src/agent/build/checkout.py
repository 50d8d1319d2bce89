"""Checks out a commit of a git repository, as the user that builds run as, without hooks or prompts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from agent.build.masking import hide_credentials
from agent.context import AllowedRepositories

_COMMIT = re.compile(r"[0-9a-fA-F]{4,64}")
_FULL_ID = 40
"""Number of characters of a SHA-1 commit id. Ids with fewer characters are short ids."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SSH_SHORT = re.compile(r"[^/:]+:(?!:)")
_BAD_BRANCH = re.compile(r"^[-+^:]|[\s:\\~^?*\[\x00-\x1f\x7f]|\.\.")
_ALL_REFS = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
_GIT_CONFIG = (
    "core.hooksPath=/dev/null",
    "advice.detachedHead=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
)
_WITHOUT_LFS = ("filter.lfs.smudge=", "filter.lfs.process=", "filter.lfs.required=false")
_HTTP_USER = re.compile(r"^(https?://)[^/@]*@", re.IGNORECASE)
_MAX_DETAIL_CHARACTERS = 500
_USERNAME, _PASSWORD = "TESTHIDE_GIT_USERNAME", "TESTHIDE_GIT_PASSWORD"
_ANSWER_CREDENTIALS = (
    f"""!f() {{ test "$1" = get && printf 'username=%s\\npassword=%s\\n' "${_USERNAME}" "${_PASSWORD}"; }}; f"""
)
"""Credential helper for git: a shell function that prints the credentials from environment variables. Only the names of
the variables are in it, so no process list, file or log shows the credentials.
"""


class CheckoutFailed(Exception):
    """The commit cannot be checked out. The message says why, in git's words if git failed."""


class FetchOptions(NamedTuple):
    depth: int = 1
    """Number of commits to fetch; 0 fetches the whole history."""
    tags: bool = False
    submodules: bool = False

    def describe(self) -> str:
        history = f"last {self.depth} commits" if self.depth > 1 else "" if self.depth else "whole history"
        parts = (history, "tags" if self.tags else "", "submodules" if self.submodules else "")
        named = ", ".join(filter(None, parts))
        return f" ({named})" if named else ""


RunGit = Callable[[Sequence[str], dict[str, str], bool], tuple[int, list[str]]]
"""Runs a command line with an environment in the workspace, and logs its output if the third argument is True.

Returns the exit code and the lines of output.
"""


class Checkout:
    """One checkout. `credentials` has `username` and `password` for the repository's own host, or is None. No other
    host gets them, not even the host of a submodule.
    """

    def __init__(
        self,
        run_git: RunGit,
        env: dict[str, str],
        note: Callable[[str], None],
        allowed: AllowedRepositories,
        options: FetchOptions,
        credentials: Mapping[str, str] | None,
    ) -> None:
        self._run_git = run_git
        self._note = note
        self._allowed = allowed
        self._options = options
        self._credentials = credentials
        self._config = [*_GIT_CONFIG]
        self._env = {
            **env,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
            "GIT_ALLOW_PROTOCOL": ":".join(self._protocols + ["file"] * allowed.local),
        }

    def run(self, url: str, branch: str | None, commit: str | None) -> str:
        """Check out `commit`. If `commit` is None, check out the newest commit of `branch`. If `branch` is None too,
        check out the newest commit of the default branch. Return the full id of the commit.

        Raises `CheckoutFailed`.
        """
        self._check(url, branch, commit)
        self._note(
            f"Checking out {branch or 'the default branch'} of {hide_credentials(url)}"
            + (f" at {commit}" if commit else "")
            + self._options.describe()
        )
        if _is_local(url):
            # Git refuses a repository of another user. Its server process reads this setting only from a config file.
            self._git("config", "--global", "safe.directory", "*")
        self._use_credentials(url)
        # If git-lfs is installed, the file `.lfsconfig` of the commit could choose the server that git-lfs asks, with
        # the credentials if that server is on the same host. This setting overrides the file.
        self._config.append(f"lfs.url={_find_lfs_url(url)}")
        self._git("init", "--quiet", "--template=")
        sha = self._fetch(url, branch or "HEAD", commit)
        self._git("checkout", "--quiet", "--force", "--detach", sha, "--")
        self._note(f"At {sha}")
        if self._options.submodules:
            self._check_out_submodules(url)
        return sha

    @property
    def _protocols(self) -> list[str]:
        return ["https", "ssh"] + ["http"] * self._allowed.http

    def _use_credentials(self, url: str) -> None:
        if not self._credentials:
            return
        parts = urlsplit(url) if _SCHEME.match(url) else None
        if parts is None or parts.scheme.lower() not in ("https", "http"):
            self._note("The server's credentials are not used: this repository is not fetched by https")
            return
        # Git asks a helper only about the host that its setting names. The empty one ends the list of earlier helpers.
        name = f"credential.{parts.scheme}://{parts.netloc.rpartition('@')[2]}.helper"
        self._config += [f"{name}=", f"{name}={_ANSWER_CREDENTIALS}"]
        self._env = {
            **self._env,
            _USERNAME: self._credentials["username"],
            _PASSWORD: self._credentials["password"],
        }

    def _check_out_submodules(self, url: str) -> None:
        # URLs of submodules may be relative to this URL. The build can read it, so it is stored without credentials.
        self._git("config", "remote.origin.url", _HTTP_USER.sub(r"\1", url))
        self._env = {**self._env, "GIT_ALLOW_PROTOCOL": ":".join(self._protocols)}
        self._config += _WITHOUT_LFS  # `lfs.url` is one address, and each submodule would need another
        self._git("submodule", "--quiet", "update", "--init", "--recursive", "--force")

    def _fetch(self, url: str, branch: str, commit: str | None) -> str:
        fetch = ("fetch", "--quiet", "--tags" if self._options.tags else "--no-tags", "--no-recurse-submodules")
        depth = (f"--depth={self._options.depth}",) if self._options.depth else ()
        code, missing = 1, list[str]()
        for name in _full_names(branch):
            code, output = self._try(*fetch, *depth, "--", url, name)
            if not code or not any("remote ref" in line for line in output):
                break
            missing = missing or output
        else:
            output = missing
        # The branch is gone, but the repository may still have the commit.
        if code and not (commit and any("remote ref" in line for line in output)):
            raise _failed(output)
        # _ALL_REFS does not contain the refs of pull requests.
        more = (branch,) if not code and branch.startswith("refs/") else ()
        wanted = f"{commit or 'FETCH_HEAD'}^{{commit}}"
        if not code:
            code, output = self._try("rev-parse", "--quiet", "--verify", wanted)
        if code:
            self._note("The commit is not in what was fetched: fetching the whole history")
            self._git(*fetch, "--depth=2147483647", "--", url, *_ALL_REFS, *more)
            code, output = self._try("rev-parse", "--verify", wanted)
        found = output[-1].strip() if output and not code else ""
        # Git takes a short id for a branch or tag if one has this name.
        if not found or (commit and len(commit) < _FULL_ID and not found.startswith(commit.lower())):
            raise CheckoutFailed(f"the repository has no commit {commit}")
        return found

    def _git(self, *args: str) -> None:
        code, output = self._try(*args)
        if code:
            raise _failed(output)

    def _try(self, *args: str) -> tuple[int, list[str]]:
        config = [word for setting in self._config for word in ("-c", setting)]
        return self._run_git(["git", *config, *args], self._env, args[0] != "rev-parse")

    def _check(self, url: str, branch: str | None, commit: str | None) -> None:
        if url.startswith("-") or any(ord(character) < 33 for character in url):
            raise CheckoutFailed("the repository is not a URL")
        scheme = _SCHEME.match(url)
        if _is_local(url) and not self._allowed.local:
            raise CheckoutFailed("this agent takes local repositories only with --allow-local-repositories")
        if scheme and scheme.group(1).lower() == "http" and not self._allowed.http:
            raise CheckoutFailed("this agent takes http:// repositories only with --allow-http-repositories")
        if scheme and scheme.group(1).lower() not in ("https", "ssh", "file", "http"):
            raise CheckoutFailed(f"{scheme.group(1)} is not a way to a repository: https and ssh are")
        if branch is not None and _BAD_BRANCH.search(branch):
            raise CheckoutFailed(f"{branch!r} is not a branch")
        if commit is not None and not _COMMIT.fullmatch(commit):
            raise CheckoutFailed(f"{commit!r} is not a commit id")


def _full_names(branch: str) -> tuple[str, ...]:
    """Returns the full names of the refs that `branch` may mean, in the order in which to fetch them. The branch comes
    before a tag with the same name, because people who may not push branches may be allowed to push tags.
    """
    is_full = branch == "HEAD" or branch.startswith("refs/")
    return (branch,) if is_full else (f"refs/heads/{branch}", f"refs/tags/{branch}")


def _find_lfs_url(url: str) -> str:
    """Returns the address at which git-lfs looks for a repository's files unless a setting names another address."""
    if not re.match("https?://", url, re.IGNORECASE):
        return url
    base = url.removesuffix("/")
    return f"{base if base.endswith('.git') else f'{base}.git'}/info/lfs"


def _is_local(url: str) -> bool:
    scheme = _SCHEME.match(url)
    if scheme:
        return scheme.group(1).lower() == "file"
    return not _SSH_SHORT.match(url)


def _failed(output: list[str]) -> CheckoutFailed:
    text = " ".join(line.strip() for line in output if line.strip())
    return CheckoutFailed(hide_credentials(text[-_MAX_DETAIL_CHARACTERS:]) or "git failed without a word")
