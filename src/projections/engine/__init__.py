"""Applies events of the log to read models: live, as events are appended, and in bulk. Knows no area."""
