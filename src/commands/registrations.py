"""Registration tokens, with which machines register as nodes after the server has spawned them. The tokens are not
stored, not even as hashes: a worker that repeats the spawn of a machine makes the token again.
"""

import secrets as randomness
from datetime import datetime, timedelta

from store.crypto.secrets import Secrets

NOT_VALID = "The registration token is not valid (any more)."
PURPOSE = "machine registrations"
REGISTRATION_LIFETIME = timedelta(minutes=10)
"""Time for which the registration token of a new or restarted machine is valid."""


def new_registration(now: datetime) -> tuple[str, datetime]:
    """Returns the id of a new registration, and the time until which its token is valid."""
    return randomness.token_hex(16), now + REGISTRATION_LIFETIME


def make_registration_token(secrets: Secrets, machine_id: str, registration_id: str) -> str:
    """Returns the token of one registration of a machine, such as a Docker agent. Neither id may have a dot."""
    return secrets.sign(PURPOSE, f"{machine_id}.{registration_id}")


def read_registration_token(secrets: Secrets, token: str) -> tuple[str, str] | None:
    """Returns (machine id, registration id) from a token. Returns None if this server did not make the token. The
    caller checks whether the registration is still open.
    """
    text = secrets.read_signed(PURPOSE, token)
    if text is None:
        return None
    machine_id, _, registration_id = text.partition(".")
    return machine_id, registration_id
