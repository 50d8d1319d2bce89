"""Notes and checkpoints as C2SP writes them, and text that is neither."""

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.audit.signed_notes import BadNote, Checkpoint, SigningKey, VerifierKey, note_hash, open_note

# The example of Go's golang.org/x/mod/sumdb/note, from which the format comes.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
KEY = SigningKey("testhide/1", b"k" * 32)
CHECKPOINT = Checkpoint("testhide/1", 20_852_163, b"r" * 32, datetime(2026, 5, 20, 10, 0, 3, tzinfo=UTC), b"p" * 32)


def test_the_format_is_the_one_of_other_programs() -> None:
    key = VerifierKey.parse(GO_KEY)
    assert str(key) == GO_KEY
    assert open_note(GO_NOTE, [KEY.verifier, key]).endswith("your problem is.\n")


def test_a_checkpoint_as_text() -> None:
    assert CHECKPOINT.text == (
        "testhide/1\n20852163\ncnJycnJycnJycnJycnJycnJycnJycnJycnJycnJycnI=\n"
        "previous cHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHA=\ntime 2026-05-20T10:00:03Z\n"
    )
    assert Checkpoint.parse(CHECKPOINT.text) == CHECKPOINT
    first = Checkpoint("testhide/1", 1, b"r" * 32, CHECKPOINT.time)
    assert Checkpoint.parse(first.text) == first


def test_what_is_signed_opens_with_its_key_alone() -> None:
    note = KEY.sign(CHECKPOINT.text)
    assert open_note(note, [KEY.verifier]) == CHECKPOINT.text
    assert len(note_hash(note)) == 32
    for others in ([], [SigningKey.new("testhide/1").verifier], [VerifierKey("testhide/2", KEY.verifier.public)]):
        with pytest.raises(BadNote, match="not one of the keys"):
            open_note(note, others)


def test_a_text_that_was_changed_is_told_from_a_key_that_is_unknown() -> None:
    note = KEY.sign(CHECKPOINT.text).replace("time 2026", "time 2025")
    with pytest.raises(BadNote, match=r"the text does not fit the signature by testhide/1 \(key [0-9a-f]{8}\): one"):
        open_note(note, [SigningKey.new("testhide/1").verifier, KEY.verifier])
    with pytest.raises(BadNote, match="not one of the keys"):
        open_note(note, [SigningKey.new("testhide/1").verifier])


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_note_in_which_a_bit_turned_does_not_open(index: int, bit: int) -> None:
    note = KEY.sign(CHECKPOINT.text)
    raw = bytearray(note.encode())
    raw[index % len(raw)] ^= 1 << bit
    turned = raw.decode(errors="replace")
    with pytest.raises(BadNote):
        open_note(turned, [KEY.verifier])


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "na me+00000000+AAAA",
        "name+00000000+AAAA",
        GO_KEY.replace("c74f20a3", "c74f20a4"),
        GO_KEY.replace("ARpc", "ARpd"),
        "x" * 10_000,
    ],
)
def test_verifier_keys_that_are_none(vkey: str) -> None:
    with pytest.raises(BadNote, match="verifier key"):
        VerifierKey.parse(vkey)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\nno dash\n",
        "text\n\n— name\n",
        "text\n\n— name AAAA",
        "text\n\n— na\x7f AAAAAAA=\n",
    ],
)
def test_notes_that_are_none(note: str) -> None:
    with pytest.raises(BadNote):
        open_note(note, [KEY.verifier])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "testhide/1\n",
        CHECKPOINT.text.replace("20852163", "-1"),
        CHECKPOINT.text.replace("20852163", "9" * 30),
        CHECKPOINT.text.replace("cnJy", "cnJ"),
        CHECKPOINT.text.replace("time 2026", "time 20x6"),
        CHECKPOINT.text.replace("time", "thyme"),
    ],
)
def test_texts_that_are_no_checkpoint(text: str) -> None:
    with pytest.raises(BadNote, match="no checkpoint"):
        Checkpoint.parse(text)


def test_a_signing_key_does_not_show_itself() -> None:
    assert base64.b64encode(KEY.private).decode() not in repr(KEY)
    assert KEY.private.decode() not in repr(KEY)
