"""Which model answers, and how many tokens it has used."""

import asyncio
from datetime import UTC, datetime, timedelta

from commands.handler import CommandContext
from domain.token_quota import end_of, month_of
from store.clock import utcnow
from tests.support.in_process_server import InProcessServer, serve_in_process
from tests.support.server import ADMIN, Server

MODEL: dict[str, str | int] = {"ai_provider": "openai", "ai_model": "gpt-4o", "ai_key": "k", "ai_monthly_tokens": 1_000}


def reserve(inside: InProcessServer, tokens: int) -> None:
    """Reserves tokens, as a worker does before a call of the model."""
    caller, until = CommandContext("system:tests"), utcnow() + timedelta(minutes=1)
    reserving = inside.services.tokens.reserve(f"call-{tokens}", "gpt-4o", tokens, until, 1_000, caller)
    asyncio.run_coroutine_threadsafe(reserving, inside.loop).result(30)


def test_without_a_model_rules_answer(server: Server) -> None:
    viewer = server.make_user("viewer")
    features = ["chat", "investigation", "test_health"]
    status = {"provider": "builtin", "model": "builtin", "available": True, "features": features}
    assert viewer.fetch("/ai/llm/status") == status
    quota = viewer.fetch("/ai/quota")
    resets_at = datetime.fromisoformat(quota.pop("resets_at"))
    assert resets_at == end_of(month_of(datetime.now(UTC)))
    assert quota == {"tokens_used": 0, "tokens_limit": 1_000_000, "percent_used": 0.0}


def test_a_model_is_available_until_the_month_has_no_tokens_left(server: Server) -> None:
    with serve_in_process(server, **MODEL) as inside:
        client = inside.client(*ADMIN)
        status = client.fetch("/ai/llm/status")
        assert (status["provider"], status["model"], status["available"]) == ("openai", "gpt-4o", True)
        reserve(inside, 143)
        quota = client.fetch("/ai/quota")
        assert (quota["tokens_used"], quota["tokens_limit"], quota["percent_used"]) == (143, 1_000, 14.3)
        assert client.fetch("/ai/llm/status")["available"] is True
        reserve(inside, 857)
        assert client.fetch("/ai/quota")["percent_used"] == 100.0
        assert client.fetch("/ai/llm/status")["available"] is False
