"""Scopes of the caches of builds. A build saves caches in the scope of its branch. It restores caches from this scope,
and from the scope of the job's default branch. So the builds of a new branch begin with the caches of the default
branch. The caches of any other branch reach only the builds of that branch.

Tags and pull requests have scopes of their own. So have builds that somebody started by hand with a commit, variables
or secrets, since these decide what ends up in a cache, whatever branch the build names.
"""

import hashlib
from typing import NamedTuple

from domain.builds import BuildQueued
from domain.jobs import Job
from domain.triggers import BuildTrigger


class CacheScopes(NamedTuple):
    """Scopes of the caches of one build. Agents and the server give a build only caches of its scopes."""

    trust: str
    """Beginning of both scopes. It names the project, and says whether the build is untrusted, was started by an admin,
    or neither. The caches of all scopes with the same beginning share one quota of the server.
    """
    primary: str
    """Scope in which the build saves caches, and from which it restores them first."""
    fallback: str | None
    """Scope of the default branch, from which the build restores what `primary` lacks. None if the build may not use
    this scope, or if `primary` is the same.
    """


def find_cache_ref(branch: str, trigger: BuildTrigger | None, is_chosen: bool) -> str:
    """Returns the name from which the scope of a build's caches is made, such as `refs/heads/main`. `is_chosen` says of
    a build without a trigger whether somebody chose its commit, variables or secrets. The names for these builds and
    for pull requests contain a space. Names of refs do not, so nobody can push a branch or tag with one of these names.
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
    # Builds of other users must leave no cache to builds of admins, which run with more rights on some nodes.
    trust = f"{queued.project_id}-{'untrusted' if queued.untrusted else 'admins' if queued.by_admin else 'members'}"

    def name(ref: str) -> str:
        identity = "\0".join([queued.repository or "", ref])
        return f"{trust}-{hashlib.sha256(identity.encode()).hexdigest()[:32]}"

    primary = name(queued.cache_ref or find_cache_ref(queued.branch, queued.trigger, is_chosen=True))
    # An untrusted build gets no caches of the default branch: trusted builds have saved them, and strangers may not see
    # what is in them.
    if job is None or queued.untrusted:
        return CacheScopes(trust, primary, None)
    fallback = name(find_cache_ref(job.default_branch, None, is_chosen=False))
    return CacheScopes(trust, primary, None if fallback == primary else fallback)
