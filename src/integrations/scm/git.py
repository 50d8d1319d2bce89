"""Repositories without an API. The program `git` reads them over https, or in folders that the operator allows."""

import asyncio
import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from integrations.ports import Outgoing, Refused, Unanswered
from integrations.scm.bitbucket import authorization
from integrations.scm.rest import MAX_ANSWER, TIME_LIMIT_S, full_names, must_be_small, utc_date
from integrations.source_ports import (
    CloneCredentials,
    CommitStatus,
    SourceCommit,
    SourceFailure,
    SourceForbidden,
    SourceNotFound,
    SourceUnavailable,
)

OLDEST_GIT = (2, 37)
"""Oldest release of git that can be told to which addresses it must connect."""
MAX_PROGRAMS = 2
"""Largest number of git programs that a process of the server runs at the same time. Further calls wait; the time limit
of a call includes its wait.
"""
LIMITS = f"ulimit -c 0 && ulimit -v {512 * 1024} && ulimit -t 10 && ulimit -f {2 * 1024 * 1024}"
"""Shell command that limits each git program to 512 MiB of memory (in KiB), 10 s of CPU time and files of 1 GiB (in
blocks of 512 bytes). Limits are needed since people who can push choose the data that git reads.
"""
NO_PROGRAM = 127
"""Exit code of the shell if it finds no git."""
NO_GIT = "The server has no program git, which reads repositories of the type git."
MAX_ERROR = 300
"""Largest number of characters of git's error message that are quoted."""
_BAD_REF = re.compile(r"^[-+^:/]|[\s:\\~^?*\[\x00-\x1f\x7f]|\.\.|//|@\{")
_LOG_FORMAT = "--format=%H%x00%s%x00%an%x00%cI"
_FORBIDDEN = ("authentication failed", "could not read username", "returned error: 403", "returned error: 401")
_MISSING = ("not found", "does not exist", "couldn't find remote ref", "does not appear to be", "not our ref")
_UNAVAILABLE = ("could not resolve", "failed to connect", "connection", "timed out", "returned error: 5")


class GitRepository:
    """Implements `SourceHost`. `folder` is the repository's folder on this machine; None for a URL. `slots` limits
    how many programs run at a time.

    Runs `git` without prompts, hooks and redirects. It connects only to addresses that `outgoing` has checked.
    """

    def __init__(self, outgoing: Outgoing, url: str, token: str, folder: Path | None, slots: asyncio.Semaphore) -> None:
        self._outgoing, self._url, self._token, self._folder, self._slots = outgoing, url, token, folder, slots
        self._name = urlsplit(url).netloc or url

    async def fetch_branches(self, prefix: str, limit: int) -> list[str]:
        found = await self._read_remote("--heads")
        names = [line.partition("\trefs/heads/")[2] for line in found.splitlines()]
        return [name for name in names if name.startswith(prefix)][:limit]

    async def fetch_commits(self, branch: str | None, limit: int) -> list[SourceCommit]:
        ref = "HEAD" if branch is None else f"refs/heads/{branch}"
        with tempfile.TemporaryDirectory(prefix="testhide-git-") as work:
            await self._fetch(work, ref, branch or "", f"--depth={limit}", "--filter=tree:0")
            lines = (await self._git(work, "log", _LOG_FORMAT, f"-n{limit}", "FETCH_HEAD")).decode("utf-8", "replace")
        found = [line.split("\0") for line in lines.splitlines() if line.count("\0") == 3]
        return [SourceCommit(sha, text, author, utc_date(sha, date)) for sha, text, author, date in found]

    async def fetch_file(self, path: str, ref: str) -> tuple[str, bytes]:
        with tempfile.TemporaryDirectory(prefix="testhide-git-") as work:
            await self._fetch_any(work, ref, "--depth=1")
            commit = (await self._git(work, "rev-parse", "FETCH_HEAD^{commit}")).decode().strip()
            try:
                content = await self._git(work, "cat-file", "blob", f"{commit}:{path}")
            except SourceFailure:
                raise SourceNotFound(f"{self._name} has no file {path} at {ref}.") from None
        return commit, must_be_small(self._name, path, content)

    async def set_status(self, commit: str, status: CommitStatus) -> None:
        """Does nothing: git has no statuses."""

    async def clone_credentials(self) -> CloneCredentials | None:
        user, _, password = self._token.rpartition(":")
        return CloneCredentials(user or "git", password) if password else None

    async def check(self) -> None:
        await self._read_remote("--heads")

    async def _read_remote(self, *options: str) -> str:
        with tempfile.TemporaryDirectory(prefix="testhide-git-") as work:
            output = await self._git(work, "ls-remote", *options, "--", self._address)
            return output.decode("utf-8", "replace")

    async def _fetch(self, work: str, ref: str, shown: str, *options: str) -> None:
        if _BAD_REF.search(ref):
            raise SourceNotFound(f"{shown!r} is no branch, tag or commit.")
        await self._git(work, "init", "--quiet", "--bare", "--template=", ".")
        await self._git(work, "fetch", "--quiet", "--no-tags", *options, "--", self._address, ref)

    async def _fetch_any(self, work: str, shown: str, *options: str) -> None:
        """Fetches the commit, branch or tag called `shown`. If a branch and a tag have this name, fetches the
        branch.
        """
        names = full_names(shown)
        for name in names:
            try:
                await self._fetch(work, name if name == shown else f"refs/{name}", shown, *options)
                return
            except SourceNotFound:
                if name == names[-1]:
                    raise

    @property
    def _address(self) -> str:
        # A local repository is given as a URL, so that git does not link or copy it as a whole.
        return self._url if self._folder is None else self._folder.as_uri()

    async def _git(self, work: str, *arguments: str) -> bytes:
        """Runs git in the folder `work`, and returns its output. Raises SourceFailure if git fails or takes
        too long.
        """
        env = await self._environment(work)
        try:
            async with asyncio.timeout(TIME_LIMIT_S), self._slots:
                return await self._run(work, env, arguments)
        except TimeoutError:
            raise SourceUnavailable(
                f"{self._name} gives no answer within {TIME_LIMIT_S:g} s.", is_timeout=True
            ) from None

    async def _run(self, work: str, env: dict[str, str], arguments: Sequence[str]) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", f'{LIMITS} && exec git "$@"', "git", *arguments),
            cwd=work,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            output, error = await asyncio.gather(
                _read(process.stdout, MAX_ANSWER + 1), _read(process.stderr, MAX_ANSWER)
            )
            if len(output) <= MAX_ANSWER:
                await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        if len(output) > MAX_ANSWER:
            raise SourceFailure(f"{self._name} answers with more than {MAX_ANSWER:,} bytes.")
        if process.returncode == NO_PROGRAM:
            raise SourceFailure(NO_GIT)
        if process.returncode:
            raise self._failure(error.decode("utf-8", "replace"))
        return output

    async def _environment(self, work: str) -> dict[str, str]:
        config = {
            "core.hooksPath": "/dev/null",
            "gc.auto": "0",
            "maintenance.auto": "false",
            # Keeps git within LIMITS: git holds no large file in memory, and one thread maps packs in parts.
            "core.bigFileThreshold": "1m",
            "core.packedGitWindowSize": "16m",
            "core.packedGitLimit": "128m",
            "pack.threads": "1",
            "transfer.unpackLimit": "1",
            "http.followRedirects": "false",
            "http.proxy": "",
            "credential.helper": "",
        }
        if self._folder is None:
            config |= await self._connection()
            if self._token:
                user, _, password = self._token.rpartition(":")
                (header,) = authorization(f"{user or 'git'}:{password}").values()
                config["http.extraHeader"] = f"Authorization: {header}"
        # Passed in the environment: the list of processes, which others can see, shows arguments.
        numbered = {
            f"GIT_CONFIG_{part}_{number}": text
            for number, pair in enumerate(config.items())
            for part, text in zip(("KEY", "VALUE"), pair, strict=True)
        }
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": work,
            "LC_ALL": "C.UTF-8",
            "MALLOC_ARENA_MAX": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "GIT_ALLOW_PROTOCOL": "file" if self._folder is not None else urlsplit(self._url).scheme,
            "GIT_CONFIG_COUNT": str(len(config)),
            **numbered,
        }

    async def _connection(self) -> dict[str, str]:
        """Returns settings with which git connects to the checked addresses, without looking up the name again."""
        version = tuple(map(int, re.findall(r"\d+", await _git_version())[:2]))
        if version < OLDEST_GIT:
            raise SourceFailure("The server's git is too old to read repositories safely: it needs 2.37 or newer.")
        url = urlsplit(self._url)
        try:
            addresses = await self._outgoing.find_addresses(self._url)
        except Refused as error:
            raise SourceFailure(f"{self._name} is not called: it {error}.") from None
        except Unanswered as error:
            raise SourceUnavailable(f"{self._name} gives no answer: {error}.") from None
        port = url.port or (443 if url.scheme == "https" else 80)
        shown = ",".join(f"[{address}]" if ":" in address else address for address in addresses)
        return {"http.curloptResolve": f"{url.hostname}:{port}:{shown}"}

    def _failure(self, error: str) -> SourceFailure:
        lines = [line for line in error.splitlines() if line.startswith(("fatal:", "remote:", "error:"))]
        text = " ".join("".join(filter(str.isprintable, " ".join(lines))).split())
        for secret in filter(None, (self._token, self._token.rpartition(":")[2])):
            text = text.replace(secret, "***")
        known = text.lower()
        if any(words in known for words in _FORBIDDEN):
            return SourceForbidden(f"{self._name} refuses the token, or wants one.")
        if any(words in known for words in _MISSING):
            return SourceNotFound(f"{self._name} has no such repository, branch, tag or commit.")
        if any(words in known for words in _UNAVAILABLE):
            return SourceUnavailable(f"{self._name} gives no answer.")
        return SourceFailure(f"{self._name} cannot be read: git says “{text[:MAX_ERROR]}”.")


def find_folder(path: str, allowed: Sequence[Path]) -> Path | None:
    """Returns the folder to which an absolute path leads; None if it is not in one of the allowed folders."""
    folder = Path(path).resolve()
    return folder if any(folder.is_relative_to(root.resolve()) for root in allowed) else None


async def _read(stream: asyncio.StreamReader | None, limit: int) -> bytes:
    """Reads from the stream until it ends or `limit` bytes are read. Returns these bytes."""
    assert stream is not None
    read = bytearray()
    while len(read) < limit and (chunk := await stream.read(limit - len(read))):
        read += chunk
    return bytes(read)


async def _git_version() -> str:
    try:
        process = await asyncio.create_subprocess_exec("git", "--version", stdout=asyncio.subprocess.PIPE)
    except FileNotFoundError:
        raise SourceFailure(NO_GIT) from None
    output, _ = await process.communicate()
    return output.decode("ascii", "replace")
