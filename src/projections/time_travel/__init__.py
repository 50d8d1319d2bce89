"""Reads the past: resources as they were (`?as_of=`), and the history over which simulations run what-if rules."""
