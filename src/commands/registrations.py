"""Registration tokens, with which machines that the server has made register as nodes. No form of a token is stored: a
worker makes it again when it repeats a spawn.
"""

from store.crypto.secrets import Secrets

NOT_VALID = "The registration token is not valid (any more)."
PURPOSE = "machine registrations"


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
