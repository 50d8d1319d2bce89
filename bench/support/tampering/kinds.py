"""Lists the kinds of change that somebody can make who has the database, the blobs and even the secret key. Each kind
names the detectors that must notice it. `bench/long/tampering.py` makes each of these changes.
"""

from bench.support.tampering.kind import Kind
from bench.support.tampering.log_kinds import LOG_KINDS
from bench.support.tampering.read_model_kinds import READ_MODEL_KINDS
from bench.support.tampering.state_kinds import STATE_KINDS

KINDS: tuple[Kind, ...] = (*LOG_KINDS, *READ_MODEL_KINDS, *STATE_KINDS)
