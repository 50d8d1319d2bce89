"""Moves any read model along the event log; the read models themselves are in the folder above."""
