"""The program on a build machine. Standard library only, Python 3.9 or newer, Linux.

cli        options, token, start and end
session    connect, long poll, heartbeats; which builds run here
build      one build from assignment to verdict
  workspace, checkout, steps, log, artifacts, reports
slot       the supervisor process that owns the processes of one build at a time
server     the only way to the server: HTTP, retries
"""

VERSION = "0.1.0"
