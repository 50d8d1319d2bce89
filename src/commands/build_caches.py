"""Scopes of the caches of builds. A build saves caches in one scope, that of its branch, and restores from this scope
and from that of the job's default branch. So what is pushed to a branch reaches no build of another branch by a cache,
and the builds of a new branch begin with the caches of the default branch.

Tags and pull requests have scopes of their own. So have builds that somebody started by hand with a commit, variables
or secrets, since these decide what ends up in a cache, whatever branch the build names.
"""

import hashlib
from typing import NamedTuple

from domain.builds import BuildQueued
from domain.jobs import Job
from domain.triggers import BuildTrigger


class CacheScopes(NamedTuple):
    """Scopes of one build. Agents and the server find a cache only in its scope."""

    trust: str
    """Beginning of both scopes: the project, and whether its builds are trusted. The server's quota counts for all
    scopes with the same beginning.
    """
    primary: str
    """Scope in which the build saves caches, and from which it restores them first."""
    fallback: str | None
    """Scope from which the build restores what `primary` lacks; None if there is none, or if it is `primary`."""


def find_cache_ref(branch: str, trigger: BuildTrigger | None, is_chosen: bool) -> str:
    """Returns the name that a build's scope gets, such as `refs/heads/main`. `is_chosen` says whether somebody chose
    the commit, variables or secrets of a build that has no trigger. Names of refs contain no spaces, so nobody can push
    a branch or tag with the name of a scope of another kind.
    """
    if trigger is not None and trigger.kind == "pull_request":
        return f"pull request {branch if trigger.pull_request is None else trigger.pull_request}"
    if trigger is not None and trigger.kind == "tag":
        return f"refs/tags/{branch.removeprefix('refs/tags/')}"
    ref = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
    return f"{ref} by hand" if trigger is None and is_chosen else ref


def find_cache_scopes(queued: BuildQueued, job: Job | None) -> CacheScopes:
    """Returns the scopes of a build's caches. `job` is the current state of its job. Builds of different repositories
    share no scope, although each may have a branch `main`.
    """
    # Builds of others must not leave a cache to builds of admins, which run with more rights on some nodes.
    trust = f"{queued.project_id}-{'untrusted' if queued.untrusted else 'admins' if queued.by_admin else 'members'}"

    def name(ref: str) -> str:
        identity = "\0".join([queued.repository or "", ref])
        return f"{trust}-{hashlib.sha256(identity.encode()).hexdigest()[:32]}"

    primary = name(queued.cache_ref or find_cache_ref(queued.branch, queued.trigger, is_chosen=True))
    # The default branch of a trusted build has no untrusted caches, and trusted ones are none for strangers.
    if job is None or queued.untrusted:
        return CacheScopes(trust, primary, None)
    fallback = name(find_cache_ref(job.default_branch, None, is_chosen=False))
    return CacheScopes(trust, primary, None if fallback == primary else fallback)
