"""Real processes, a real load, and faults at random moments: what `bench.long.faults` is made of.

stack      every process, killed and stopped by name and started again by its keeper
proxy      on each way between two processes: cuts, delays, holds, loses answers
calling    who asks the API, and repeats what was not answered
reading    who reads streams, is cut off and comes back
load       builds that know what they should come to, who writes about them, a receiver of webhooks
trouble    the faults, drawn from a seed
rules      what has to hold when it is quiet again
"""
