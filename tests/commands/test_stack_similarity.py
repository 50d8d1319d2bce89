"""Stack traces are similar if the frames near the failure are, and groups of similar ones have one cause."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from domain.failures.stack_similarity import MAX_FRAMES, Trace, compare, group

RUNNER = tuple(f"runner.step{number}" for number in range(10))
QUERY = ("db.connect", "db.query", "shop.load_cart")


def test_frames_near_the_failure_count_most() -> None:
    containing = Counter[str]()
    changed_caller = ("db.connect", "db.query", "shop.load_list", *RUNNER)
    changed_cause = ("http.get", "db.query", "shop.load_cart", *RUNNER)
    assert compare((*QUERY, *RUNNER), changed_caller, containing, 10) > compare(
        (*QUERY, *RUNNER), changed_cause, containing, 10
    )


def test_frames_of_all_traces_count_little() -> None:
    other = ("json.parse", "api.read", "shop.read_cart", *RUNNER)
    everywhere = Counter(dict.fromkeys(RUNNER, 50))
    assert compare((*QUERY, *RUNNER), other, everywhere, 50) < compare((*QUERY, *RUNNER), other, Counter(), 50)


def test_failures_of_one_cause_are_a_group() -> None:
    traces = [
        Trace("OSError", (*QUERY, "test_a", *RUNNER)),
        Trace("OSError", (*QUERY, "test_b", *RUNNER)),
        Trace("KeyError", (*QUERY, "test_c", *RUNNER)),
        Trace("OSError", ("json.parse", "api.read", "test_d", *RUNNER)),
        Trace("OSError", ()),
        Trace("OSError", ()),
    ]
    assert group(traces) == [0, 0, 2, 3, 4, 4]


def test_many_traces_take_little_time() -> None:
    traces = [Trace("E", tuple(f"f{number}_{frame}" for frame in range(100))) for number in range(2_000)]
    assert len(set(group(traces))) == 2_000


_frames = st.lists(st.sampled_from("abcdef"), max_size=MAX_FRAMES)


@given(_frames, _frames)
def test_similarity_is_symmetric_and_between_0_and_1(left: list[str], right: list[str]) -> None:
    containing = Counter({"a": 3, "b": 2})
    found = compare(left, right, containing, 5)
    assert 0 <= found <= 1
    assert abs(found - compare(right, left, containing, 5)) < 1e-9
    if left == right and left:
        assert found == 1
