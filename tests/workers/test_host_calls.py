"""Calls of a slow host of source code, beside those of others."""

import contextlib

import pytest

from integrations.source_ports import SourceUnavailable
from workers.reactions.host_calls import MAX_CALLS, SILENT_HOST_PAUSE_S, HostCalls


def test_a_host_has_a_limit_of_calls_and_others_have_theirs() -> None:
    calls = HostCalls()
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CALLS):
            stack.enter_context(calls.call("slow.example"))
        with pytest.raises(SourceUnavailable) as refused, calls.call("slow.example"):
            pass
        assert refused.value.retry_after_s > 0
        with calls.call("quick.example"):
            pass
    with calls.call("slow.example"):
        pass


def test_a_host_that_did_not_answer_in_time_is_not_called_for_a_while() -> None:
    now = [100.0]
    calls = HostCalls(lambda: now[0])
    for is_timeout in (False, True):
        with pytest.raises(SourceUnavailable), calls.call("slow.example"):
            raise SourceUnavailable("slow.example fails.", is_timeout=is_timeout)
    with calls.call("quick.example"):
        pass
    now[0] += SILENT_HOST_PAUSE_S - 10
    with pytest.raises(SourceUnavailable) as refused, calls.call("slow.example"):
        pass
    assert refused.value.retry_after_s == 10
    now[0] += 10
    with calls.call("slow.example"):
        pass
