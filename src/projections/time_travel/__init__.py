"""Reads the past: resources as they were (`?as_of=`), and the history that simulations of what-if rules read."""
