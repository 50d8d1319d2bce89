"""Applies events of the log to read models: live, as they are appended, and in bulk. Has no code about single areas."""
