"""Patterns for the parts of messages and log lines that change from run to run. Signatures of failures
(`domain.failures.message_masks`) and templates of log lines (`domain.failures.log_templates`) mask them.

All patterns take linear time: repeats are bounded and not nested, and no two alternatives can match the same text.
A changed pattern changes signatures, so stored signatures would no longer match: add a pattern instead.
"""

import re

ANSI = re.compile(r"\x1b?\[[0-9;]{1,16}m|\x1b\[[0-9;?]{0,16}[@-~]")
TIME = re.compile(
    r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?"
    r"|\b\d\d?/\d\d?/\d{4}(?: \d\d?:\d\d(?::\d\d)?(?: [AP]M)?)?"
    r"|\b\d\d?:\d\d:\d\d(?:[.,]\d{1,9})?"
)
UUID = re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b")
HEX_NUMBER = re.compile(r"\b0[xX][0-9a-fA-F]{1,32}\b")
OBJECT_HASH = re.compile(r"@[0-9a-f]{5,16}\b")
"""Hash of an object: Java prints an object as `Type@1b6d3586`."""
LONG_HEX = re.compile(r"\b(?=[a-fA-F]{0,63}\d)(?=\d{0,63}[a-fA-F])[0-9a-fA-F]{12,64}\b")
"""Long hex string with a digit and a letter. Without a digit it is a word, without a letter a number."""
IP_ADDRESS = re.compile(r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b")
TEMPORARY_PATH = re.compile(
    r"(?:[A-Za-z]:)?[/\\](?:tmp|temp|Temp|var[/\\]folders|var[/\\]tmp|private|home|Users|root|builds?|workspace|work|opt|runner|__w)"
    r"[/\\](?:[^\s/\\'\"<>|:,;()\[\]]{1,255}[/\\]){0,40}"
)
DURATION = re.compile(
    r"\b\d[\d,]{0,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,4})?"
    r"\s?(?:ns|us|µs|ms|s|sec|secs|seconds|min|minutes|h|hours)\b"
)
NUMBER = re.compile(r"-?\d[\d,_]{0,64}(?:\.\d{1,64})?(?:[eE][+-]?\d{1,4})?")
