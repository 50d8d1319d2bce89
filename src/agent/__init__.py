"""The program on a build machine. Standard library only, Python 3.9 or newer, Linux.

cli        options, token, start and end
session    connect, long poll, heartbeats; which builds run here
build      one build from assignment to verdict
  workspace, checkout, injection, steps, log, artifacts, reports
command    a shell line of an administrator, beside the builds
slot       the supervisor process that owns the processes of one build at a time
server     the only way to the server: HTTP, retries

testhide_startup and testhide_pytest_selection are laid beside a workspace, for the Pythons of a build.
"""

VERSION = "0.1.0"
