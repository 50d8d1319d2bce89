"""Real processes under real load, with faults at random moments: the parts of `./dev long faults`.

stack      runs every process, kills and pauses it by name, starts it again when it ended
proxy      stands on each connection between two processes: cuts, delays, stalls, loses answers
client     calls the API and repeats calls without an answer
readers    read streams, are cut off and reconnect
load       builds with a known outcome, users who comment on them, a receiver of webhooks
reactions  deletions of jobs with many artifacts, and mails to invited users
machines   a Docker engine and a simulated vCenter, and users who have builds run on their machines
outside    statuses of commits and tickets, at hosts that refuse some calls
injector   draws faults from a seed and injects them
rules      check what must hold after each round
"""
