"""Applies events of the log to read models: live, as the events are appended, and in bulk. Knows no area."""
