"""Masks what a language model must not get: credentials, and what identifies people.

The declared credentials of builds are already masked in logs and reports. This module finds undeclared ones by their
form. So it does not find a password without a name such as `password=` in front of it, nor names of people.
"""

import ipaddress
import math
import re
import unicodedata
from collections import Counter
from itertools import pairwise

SECRET = "[secret]"  # noqa: S105 - shown in place of a secret
EMAIL = "[email]"
ADDRESS = "[ip]"
USER = "[user]"
MIN_RANDOM = 28
"""Smallest number of characters of a word that is taken for a random token."""
MIN_BITS = 3.9
"""Smallest entropy of a random token, in bits per character. Names of tests have less."""
MIN_DIGITS = 3
"""Smallest number of digits of a random token."""

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_KNOWN = re.compile(
    r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|gl[a-z]{2,6}-[\w-]{16,}|xox[a-z]-[\w-]{10,}"
    r"|sk-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{12,}|AIza[\w-]{30,}|npm_[A-Za-z0-9]{20,}|pypi-[\w-]{16,}|hf_[A-Za-z0-9]{20,}"
    r"|whsec_[A-Za-z0-9+/=]{8,}|th_[a-z]+_[\w-]{8,}|dop_v1_[0-9a-f]{16,}|[sr]k_(?:live|test)_\w{8,})"
)
_DOTTED = re.compile(r"(?<![\w-])[\w-]+(?:\.[\w-]*)+")
"""Matches words with dots between them, such as a JSON web token. A match begins only at the beginning of a word, so
that the search takes linear time.
"""
_JWT_HEADER = re.compile(r"\beyJ[\w-]{8}")
MIN_JWT_PAYLOAD = 8
"""Smallest number of characters of the second part of a JSON web token."""
_USERINFO = re.compile(r"(?<=://)[^\s/@:\"'<>]{0,200}:[^\s/@\"'<>]{1,200}(?=@)")
_SCHEME = re.compile(r"(?i)\b(bearer|basic|digest|negotiate)(\s+)[A-Za-z0-9+/._~=-]{6,}")
_NAMED = re.compile(
    r"(?i)([\w.-]{0,40}(?:passwd|password|passphrase|pwd|secret|token|api[_-]?key|apikey|access[_-]?key|private[_-]?key"
    r"|credentials?|cookie)s?[\"']?[ \t]{0,3}(?:=>|[:=])[ \t]{0,3})"
    r"(\"[^\"\n]{1,500}\"|'[^'\n]{1,500}'|[^\s\"',;&<>]{3,500})"
)
_EMAIL = re.compile(r"[\w.+%-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\.\d)(?!\w)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_HOME = re.compile(r"(?i)((?:/home/|/Users/|[A-Z]:\\Users\\))(?!runner\b|root\b)[\w.-]{1,64}")
_WORD = re.compile(rf"(?<![\w+/=.-])[A-Za-z0-9_+=-]{{{MIN_RANDOM},512}}(?![\w+/=-])")
_HEX = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_HIDDEN = ("Cc", "Cf", "Co", "Cs", "Cn")
"""Unicode categories of invisible characters: control, format, private use, surrogates, unassigned."""
_UNNAMED = ("true", "false", "none", "null", "undefined", "nil", "***")


def mask_secrets(text: str) -> str:
    """Returns the text with placeholders for credentials, e-mail addresses, IP addresses (except those of this machine
    itself) and names of users in paths.
    """
    text = _PRIVATE_KEY.sub(SECRET, text)
    text = _USERINFO.sub(SECRET, text)
    text = _KNOWN.sub(SECRET, text)
    text = _DOTTED.sub(_mask_jwt, text)
    text = _SCHEME.sub(rf"\1\2{SECRET}", text)
    text = _NAMED.sub(_mask_named, text)
    text = _EMAIL.sub(EMAIL, text)
    text = _IPV4.sub(_mask_address, text)
    text = _IPV6.sub(_mask_address, text)
    text = _HOME.sub(rf"\1{USER}", text)
    return _WORD.sub(_mask_random, text)


def remove_hidden(text: str) -> str:
    """Returns the text without invisible characters, except line feeds and tabs."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _HIDDEN)


def _mask_jwt(found: re.Match[str]) -> str:
    """Returns the matched words with the JSON web token in them masked: everything from the header of the token on."""
    parts = found[0].split(".")
    for at, (part, payload) in enumerate(pairwise(parts)):
        header = _JWT_HEADER.search(part)
        if header is not None and len(payload) >= MIN_JWT_PAYLOAD:
            return ".".join([*parts[:at], part[: header.start()] + SECRET])
    return found[0]


def _mask_named(found: re.Match[str]) -> str:
    value = found[2].strip("\"'")
    return found[0] if value.lower() in _UNNAMED or value == SECRET else f"{found[1]}{SECRET}"


def _mask_address(found: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(found[0])
    except ValueError:
        return found[0]
    return found[0] if address.is_loopback or address.is_unspecified else ADDRESS


def _mask_random(found: re.Match[str]) -> str:
    """Returns a mask for a word that looks random: it has upper and lower case, digits, and the entropy of a random
    word. Any other word stays, also a hexadecimal hash of a commit or file.
    """
    word = found[0]
    digits = sum(map(str.isdigit, word))
    is_mixed = word != word.lower() and word != word.upper() and digits >= MIN_DIGITS
    if _HEX.fullmatch(word) or not is_mixed:
        return word
    bits = -sum(count / len(word) * math.log2(count / len(word)) for count in Counter(word).values())
    return SECRET if bits >= MIN_BITS else word
