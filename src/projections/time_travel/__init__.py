"""Reads the past: resources as they were (`?as_of=`), and the history that rule simulations replay."""
