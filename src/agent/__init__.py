"""The program on a build machine. It needs Linux, Python 3.9 or newer and only the standard library, and is shipped as
one zipapp.

cli            options, start and end
session        connect, long poll, heartbeats, sign off
runner         the builds and commands that run here, each a `task` in a thread of its own
admin_command  a shell line of an administrator, outside any build
build/         one build: workspace, checkout, steps, log, reports and artifacts
cache_store    files that builds save for later builds
process/       the supervisor processes in which builds and commands run, their user accounts, and calls to Linux
server_client  every HTTP request, with retries
injected/      modules that are copied next to a workspace and run in the build's own Python processes
bundle         builds the zipapp; the only module that is not part of it
"""

FEATURES = ("shell", "checkout", "caches", "shards")
"""Names of build features that older agents do not support. The agent sends them when it connects, so that the server
gives it only builds that it can run.
"""
BUILD_ACCOUNTS = "build_accounts"
"""Name of a feature of the agent: each build runs as a user that no other running build has."""
VERSION = "0.1.0"
"""The version of the whole project: pyproject.toml reads it from here."""
