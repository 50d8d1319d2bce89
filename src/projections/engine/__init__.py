"""Applies the events of the log to read models of any kind, live and in bulk."""
