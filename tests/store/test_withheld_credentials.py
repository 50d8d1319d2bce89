"""An export has no credentials, and verifies without them."""

import hashlib
from typing import Any

import msgspec
import pytest

from domain.core.events import EventMetadata
from domain.jobs import Configuration, JobConfigured
from domain.registry import EVENTS
from domain.users import UserRegistered
from domain.webhooks import WebhookRegistered
from store.audit.export_lines import WITH_CREDENTIALS, ExportLine
from store.log import codec, credentials
from store.log.credentials import FIELDS
from store.log.event_log import Write
from tests.store.test_forged_exports import changed, read
from tests.store.test_verifier import Archive, archive, filled, texts, verified  # noqa: F401 - archive needs filled
from tests.workers.test_sealing import NOW

__all__ = ["archive"]

SECRET = b"sealed by the secret key"
URL_TOKEN = "T0k3n-0f-a-cha7"
EVENTS_WITH_SECRETS = (
    UserRegistered(user_id=900, email="ann@example.com", role="viewer", password_hash="$argon2id$hunter2"),
    JobConfigured(
        job_id=900,
        project_id=1,
        configuration=Configuration(command="make", env={"secrets": "no"}, secrets={"TOKEN": SECRET}),
    ),
    WebhookRegistered(webhook_id=900, project_id=1, url=f"https://example.com/{URL_TOKEN}", events=["build.failed"]),
    WebhookRegistered(
        webhook_id=901, project_id=1, url=f"https://example.com/{URL_TOKEN}", events=[], sealed_secret=SECRET
    ),
)


async def exported(archive: Archive) -> list[bytes]:
    """An export with these events at its end."""
    for event in EVENTS_WITH_SECRETS:
        await archive.parts.log.append([Write(1, event)], EventMetadata(NOW, "user:1"))
    await archive.seal()
    return await archive.export()


def lines_of(lines: list[bytes], stream: str) -> list[ExportLine]:
    return [line for line in map(read, lines) if line.stream == stream]


def test_all_credentials_are_known() -> None:
    with_them = {name for name, event in EVENTS.items() if not (FIELDS | {"configuration"}).isdisjoint(event.sealed)}
    assert with_them == WITH_CREDENTIALS
    named = {name for event in EVENTS.values() for name in event.sealed}
    assert {name for name in named if "hash" in name or name.startswith("sealed_") or name == "url"} == FIELDS


async def test_an_export_shows_hashes_of_credentials(archive: Archive) -> None:
    lines = await exported(archive)
    text = b"".join(lines)
    assert b"hunter2" not in text
    assert msgspec.json.encode(SECRET).strip(b'"') not in text
    assert b"argon2" not in text
    assert URL_TOKEN.encode() not in text
    (user,) = lines_of(lines, "user-900")
    shown: dict[str, Any] = msgspec.json.decode(bytes(user.sealed))  # type: ignore[arg-type]
    assert shown["email"] == "ann@example.com"
    assert shown["password_hash"] == {"sha256": hashlib.sha256(b'"$argon2id$hunter2"').hexdigest()}
    (job,) = lines_of(lines, "job-900")
    configuration = msgspec.json.decode(bytes(job.sealed))["configuration"]  # type: ignore[arg-type]
    assert (configuration["command"], configuration["env"]) == ("make", {"secrets": "no"})
    assert list(configuration["secrets"]["TOKEN"]) == ["sha256"]
    for webhook in (*lines_of(lines, "webhook-900"), *lines_of(lines, "webhook-901")):
        assert list(msgspec.json.decode(bytes(webhook.sealed))["url"]) == ["sha256"]  # type: ignore[arg-type]
    found = verified(lines, archive.third, key=archive.first_key)
    assert (found.findings, found.withheld) == ([], 0)
    index = next(number for number, line in enumerate(lines) if b"user-900" in line)
    lines[index] = lines[index].replace(b"ann@example.com", b"eve@example.com")
    assert "are not those that the event was committed to" in texts(verified(lines, archive.third))


async def test_an_older_event_is_shown_without_its_sealed_fields(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(codec, "disclosed", lambda sealed: (codec.canonical(sealed), 0))
        await exported(archive)
    lines = await archive.export()
    for stream in ("user-900", "webhook-900", "webhook-901"):
        (line,) = lines_of(lines, stream)
        assert (line.withheld, line.sealed, line.salt) == (True, msgspec.UNSET, None)
    found = verified(lines, archive.third, key=archive.first_key)
    assert (found.findings, found.withheld) == ([], 4)
    # Nobody can pass values off as withheld that are not credentials.
    index = next(number for number, line in enumerate(lines) if read(line).type == "build.started" and read(line).salt)
    lines[index] = changed(lines[index], sealed=msgspec.UNSET, salt=None, withheld=True)
    assert "says more than one thing" in texts(verified(lines, archive.third))


async def test_urls_are_withheld_that_were_no_credentials_when_they_were_stored(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(credentials, "FIELDS", FIELDS - {"url"})
        await exported(archive)
    lines = await archive.export()
    assert URL_TOKEN.encode() not in b"".join(lines)
    assert [bool(lines_of(lines, stream)[0].withheld) for stream in ("user-900", "webhook-900", "webhook-901")] == [
        False,
        True,
        True,
    ]
    found = verified(lines, archive.third, key=archive.first_key)
    assert (found.findings, found.withheld) == ([], 2)
