"""Checks out a commit of a git repository, as the user that builds run as, without hooks, submodules or prompts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from agent.build.masking import hide_credentials

_COMMIT = re.compile(r"[0-9a-fA-F]{4,64}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SSH_SHORT = re.compile(r"[^/:]+:(?!:)")
_BAD_BRANCH = re.compile(r"^[-+^:]|[\s:\\~^?*\[\x00-\x1f\x7f]|\.\.")
_ALL_REFS = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
_GIT_CONFIG = ("core.hooksPath=/dev/null", "advice.detachedHead=false", "gc.auto=0", "submodule.recurse=false")
_MAX_DETAIL_CHARACTERS = 500


class CheckoutFailed(Exception):
    """The commit cannot be checked out. The message says why, in git's words if git failed."""


RunGit = Callable[[Sequence[str], dict[str, str], bool], tuple[int, list[str]]]
"""Runs a command line with an environment in the workspace, and logs its output if the third argument is True.

Returns the exit code and the lines of output.
"""


class Checkout:
    def __init__(self, run_git: RunGit, env: dict[str, str], note: Callable[[str], None], allow_local: bool) -> None:
        self._run_git = run_git
        self._note = note
        self._allow_local = allow_local
        self._env = {
            **env,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
            "GIT_ALLOW_PROTOCOL": "https:ssh:file" if allow_local else "https:ssh",
        }

    def run(self, url: str, branch: str | None, commit: str | None) -> str:
        """Check out `commit`. If it is None, check out the newest commit of `branch`, or of the default branch if that
        is None too. Return the full id of the commit.

        Raises `CheckoutFailed`.
        """
        self._check(url, branch, commit)
        self._note(
            f"Checking out {branch or 'the default branch'} of {hide_credentials(url)}"
            + (f" at {commit}" if commit else "")
        )
        if _is_local(url):
            # Git refuses a repository of another user. Its server process reads this setting only from a config file.
            self._git("config", "--global", "safe.directory", "*")
        self._git("init", "--quiet", "--template=")
        sha = self._fetch(url, branch or "HEAD", commit)
        self._git("checkout", "--quiet", "--force", "--detach", sha, "--")
        self._note(f"At {sha}")
        return sha

    def _fetch(self, url: str, branch: str, commit: str | None) -> str:
        fetch = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules")
        code, output = self._try(*fetch, "--depth=1", "--", url, branch)
        # The branch is gone, but the repository may still have the commit.
        if code and not (commit and any("remote ref" in line for line in output)):
            raise _failed(output)
        wanted = f"{commit or 'FETCH_HEAD'}^{{commit}}"
        if not code:
            code, output = self._try("rev-parse", "--quiet", "--verify", wanted)
        if code:
            self._note("Not the newest commit of the branch: fetching the whole history")
            self._git(*fetch, "--depth=2147483647", "--", url, *_ALL_REFS)
            code, output = self._try("rev-parse", "--verify", wanted)
        if code or not output:
            raise CheckoutFailed(f"the repository has no commit {commit}")
        return output[-1].strip()

    def _git(self, *args: str) -> None:
        code, output = self._try(*args)
        if code:
            raise _failed(output)

    def _try(self, *args: str) -> tuple[int, list[str]]:
        config = [word for setting in _GIT_CONFIG for word in ("-c", setting)]
        return self._run_git(["git", *config, *args], self._env, args[0] != "rev-parse")

    def _check(self, url: str, branch: str | None, commit: str | None) -> None:
        if url.startswith("-") or any(ord(character) < 33 for character in url):
            raise CheckoutFailed("the repository is not a URL")
        scheme = _SCHEME.match(url)
        if _is_local(url) and not self._allow_local:
            raise CheckoutFailed("this agent takes local repositories only with --allow-local-repositories")
        if scheme and scheme.group(1).lower() not in ("https", "ssh", "file"):
            raise CheckoutFailed(f"{scheme.group(1)} is not a way to a repository: https and ssh are")
        if branch is not None and _BAD_BRANCH.search(branch):
            raise CheckoutFailed(f"{branch!r} is not a branch")
        if commit is not None and not _COMMIT.fullmatch(commit):
            raise CheckoutFailed(f"{commit!r} is not a commit id")


def _is_local(url: str) -> bool:
    scheme = _SCHEME.match(url)
    if scheme:
        return scheme.group(1).lower() == "file"
    return not _SSH_SHORT.match(url)


def _failed(output: list[str]) -> CheckoutFailed:
    text = " ".join(line.strip() for line in output if line.strip())
    return CheckoutFailed(hide_credentials(text[-_MAX_DETAIL_CHARACTERS:]) or "git failed without a word")
