"""The mails to users: links to set a password, and notices that a password was set."""

from collections.abc import Mapping
from datetime import datetime

from domain.users import LinkPurpose, PasswordLinkIssued, UserPasswordSet
from integrations.ports import Mail

SUBJECTS: Mapping[LinkPurpose, str] = {
    "invitation": "You are invited to Testhide",
    "reset": "Reset your Testhide password",
}


def link_mail(to: str, event: PasswordLinkIssued, base_url: str, token: str) -> Mail:
    """Returns the mail with the link to set a password. `token` is the token that the link contains."""
    until = f"The link works once, until {_written(event.expires_at)}; the next one replaces it."
    first, last = {
        "invitation": (
            f"You are invited to use the Testhide server at {base_url}. Set your password here:",
            "If you did not expect this, do nothing.",
        ),
        "reset": (
            f"Somebody asked to reset your password at {base_url}. Set a new one here:",
            "If it was not you, do nothing: your password stays as it is.",
        ),
    }[event.purpose]
    # The token is in the fragment, which browsers send to no server.
    link = f"{base_url}/set-password#{token}"
    return Mail(to, SUBJECTS[event.purpose], (first, until, last), link, f"link-{event.user_id}-{event.link_id}")


def password_notice(to: str, event: UserPasswordSet, base_url: str) -> Mail:
    """Returns the notice that a user's password was set."""
    sentences = (
        f"The password of your account at {base_url} was set on {_written(event.at)}, and all sessions ended.",
        "If it was not you, tell an administrator of the server at once.",
    )
    return Mail(
        to, "Your Testhide password was set", sentences, key=f"password-{event.user_id}-{event.at.timestamp():.6f}"
    )


def _written(at: datetime) -> str:
    return f"{at.day} {at:%B %Y, %H:%M} UTC"
