"""Real processes, a real load, and faults at random moments: what `bench.long.faults` is made of.

stack      every process, killed and stopped by name and started again by its keeper
proxy      between clients and the API: cuts, delays, holds, loses answers
load       builds that know what they should come to, writers, readers of streams, a receiver of webhooks
trouble    the faults, drawn from a seed
rules      what has to hold when it is quiet again
"""
