"""Templates of log lines: lines of one statement are a group, whatever their numbers and names."""

from hypothesis import given
from hypothesis import strategies as st

from domain.failures.log_templates import MAX_LEAVES, MAX_SIBLINGS, MAX_WORDS, TemplateMatch, TemplateMiner


def _templates(*lines: str) -> list[str]:
    miner = TemplateMiner()
    matches = [miner.add(line) for line in lines]
    return [miner.template(match) for match in matches]


def test_volatile_parts_are_wildcards() -> None:
    lines = (
        "Took 1.5 seconds to fetch /srv/cache/a1.tar from 10.0.0.7:8080 (3 MB) on Mon, Jun 5",
        "Took 12 seconds to fetch /srv/cache/b/c.tar from 10.0.0.12:80 (17.5 kB, 2) on Fri, Jul 15",
        "Took 31 ms to fetch /srv/d/e from 10.0.0.9:80 (900 B) on Tue, Aug 1",
    )
    first, _, third = _templates(*lines)
    assert first == third == "Took <*> to fetch <*> from <*> (<*>) on <*>"


def test_few_words_at_a_position_are_templates_and_many_are_a_wildcard() -> None:
    states = ("started", "stopped", "paused")
    assert _templates(*(f"machine {n} was {state} by the host" for n in range(4) for state in states)) == [
        f"machine <*> was {state} by the host" for _ in range(4) for state in states
    ]
    names = ["ann", "bob", "cid", "dan", "eve", "fay"]
    assert len(names) > MAX_WORDS
    assert set(_templates(*(f"mail of {name} was sent to the host" for name in names))) == {
        "mail of <*> was sent to the host"
    }


def test_lines_of_other_lengths_or_beginnings_are_other_templates() -> None:
    assert len(set(_templates("a b c", "a b c d", "x y c", "a b c"))) == 3
    assert _templates("", "  ") == ["", ""]


def test_memory_is_bounded() -> None:
    miner = TemplateMiner()
    for number in range(3 * MAX_SIBLINGS):
        miner.add("same begin " + " ".join(chr(97 + number // 26**digit % 26) * 3 for digit in range(5)))
    assert len({miner.add("same begin " + " ".join(["zzz"] * 5)).family}) == 1
    assert MAX_LEAVES > MAX_SIBLINGS


@given(st.lists(st.text("ab1 =:[]<*>/\x1b", max_size=30), max_size=40))
def test_a_line_never_divides_a_group(lines: list[str]) -> None:
    miner = TemplateMiner()
    matches: list[TemplateMatch] = []

    def count_groups() -> int:
        return len({(match.family, miner.template(match)) for match in matches})

    for line in lines:
        before = count_groups()
        match = miner.add(line)
        assert count_groups() <= before
        matches.append(match)
    again = TemplateMiner()
    assert [again.add(line) for line in lines] == matches
