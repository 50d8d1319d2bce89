"""Pipelines: jobs that a file in the repository describes. Reads the file, and plans what it changes."""
