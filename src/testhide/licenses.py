"""The licence file: a signed note (`store.audit.signed_notes`) whose text is the licence as JSON."""

from pathlib import Path

import msgspec

from domain.licenses import COMMUNITY, License
from store.audit.signed_notes import BadNote, VerifierKey, open_note
from testhide.operator_errors import Fault
from testhide.settings import Settings


def load_license(settings: Settings) -> License:
    """Return the licence in the file that the setting `license` names, or that of the community tier if the setting is
    empty. Raises Fault if the file cannot be read or is not signed with the key `license_key`.
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
