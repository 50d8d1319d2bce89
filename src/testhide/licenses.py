"""The licence file: a signed note (`store.audit.signed_notes`) whose text is the licence as JSON."""

from pathlib import Path

import msgspec

from domain.licenses import COMMUNITY, License
from store.audit.signed_notes import BadNote, VerifierKey, open_note
from testhide.operator_errors import Fault
from testhide.settings import Settings


def load_license(settings: Settings) -> License:
    """Return the licence in the file that the setting `license` names. If the setting is empty, return the licence of
    the community tier. Raises Fault if the file cannot be read, or if the key in the setting `license_key` does not
    verify its signature.
    """
    if not settings.license:
        return COMMUNITY
    try:
        text = open_note(Path(settings.license).read_text(), [VerifierKey.parse(settings.license_key)])
        return msgspec.json.decode(text, type=License)
    except (OSError, UnicodeDecodeError, BadNote, msgspec.MsgspecError) as error:
        raise Fault(
            f"TESTHIDE_LICENSE={settings.license} is no licence: {error}. Without a file, all features are enabled.", 2
        ) from None
