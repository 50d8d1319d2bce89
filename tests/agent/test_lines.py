"""Log lines made of the bytes that a build prints."""

from __future__ import annotations

from agent.build.lines import MAX_LINE_BYTES, LineReader
from agent.build.masking import Masker


def _read(reader: LineReader, *chunks: bytes) -> list[str]:
    return [line for chunk in chunks for line in reader.feed(chunk)] + reader.flush()


def test_lines_are_whole_however_the_output_is_chunked() -> None:
    assert _read(LineReader(Masker([])), b"a", b"b\nc\xc3", b"\xa9\n", b"\xff\r\n\nend") == [
        "ab",
        "cé",
        "\ufffd",
        "",
        "end",
    ]


def test_a_progress_bar_leaves_its_last_state() -> None:
    assert _read(LineReader(Masker([])), b"10%\r", b"20%\r30%", b"\rdone\n") == ["done"]


def test_an_endless_line_is_cut() -> None:
    reader = LineReader(Masker([]))
    lines = _read(reader, *["é".encode() * 5000] * 20)

    assert "".join(lines) == "é" * 100_000
    assert all(len(line.encode()) <= MAX_LINE_BYTES for line in lines)


def test_a_secret_across_the_cut_of_a_long_line_is_masked() -> None:
    secret = "S3cret-" * 5
    for before in range(MAX_LINE_BYTES - len(secret) - 1, MAX_LINE_BYTES + 2):
        data = b"x" * before + secret.encode() + b"y" * 50
        lines = _read(LineReader(Masker([secret])), data[:60000], data[60000:])
        assert "".join(lines) == "x" * before + "***" + "y" * 50
