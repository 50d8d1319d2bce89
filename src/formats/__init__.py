"""Formats of files that the server and the agent must know alike. The agent's zipapp contains this package, so it uses
only the standard library, and runs on each Python on which the agent runs.
"""
