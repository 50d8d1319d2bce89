"""Reads the past: resources as they were (`?as_of=`), and the history on which simulations try what-if rules."""
