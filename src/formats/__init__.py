"""Formats of files that both the server and the agent read or write.

The agent's zipapp contains this package. So the package uses only the standard library, and runs on every version of
Python on which the agent runs.
"""
