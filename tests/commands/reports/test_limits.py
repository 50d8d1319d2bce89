"""What a single case may keep of its texts."""

from commands.reports.parser import Case, Limits, parse_report


def test_a_trace_made_of_several_texts_is_cut_as_a_whole() -> None:
    limits = Limits()
    part = "x" * (limits.trace * 2 // 3)
    report = (
        '<testsuite><testcase name="t" classname="c"><flakyFailure message="m"><stackTrace>begins '
        f"{part}<b>{part}</b> ends</stackTrace></flakyFailure></testcase></testsuite>"
    )
    items = list(parse_report([report.encode()], limits=limits))
    traces = [item.trace for item in items if isinstance(item, Case) and item.trace]
    assert [len(trace) <= limits.trace + 100 for trace in traces] == [True]
    assert traces[0].startswith("begins x")
    assert "[... cut ...]" in traces[0]


def test_an_output_with_elements_in_it_is_cut_as_a_whole() -> None:
    limits = Limits(output=200)
    inner = "".join(f"<b>{'x' * 150}{number}</b>" for number in range(5))
    report = f"<testsuite><testcase name='a'><system-out>first {inner} last</system-out></testcase></testsuite>"
    items = list(parse_report([report.encode()], limits=limits))
    (out,) = [item.system_out for item in items if isinstance(item, Case)]
    assert len(out) <= 200 + 100
    assert out.startswith("first")
    assert "[... cut ...]" in out
