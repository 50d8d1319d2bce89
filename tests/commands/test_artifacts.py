"""Artifacts: what is stored, and under which path."""

from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from agent.build.artifacts import find_files
from commands.artifacts import DeleteArtifact, StoreArtifact
from domain import artifacts, builds
from domain.artifacts import (
    ARTIFACT,
    ArtifactDeleted,
    ArtifactStored,
    artifact_path,
    artifact_type,
    is_found_by_wildcard,
    matches_glob,
)
from domain.builds import (
    BuildAssigned,
    BuildDeleted,
    BuildFinished,
    BuildPinned,
    BuildQueued,
    BuildRequeued,
    BuildStarted,
    BuildUnpinned,
)
from domain.core.errors import Conflict, Invalid, NotFound
from domain.core.events import Event
from domain.jobs import Configuration, JobCreated, JobDeleted
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

IDS: dict[str, Any] = {"build_id": 7, "job_id": 5, "project_id": 1}
QUEUED = BuildQueued(**IDS, configuration=Configuration(), branch="main")
ASSIGNED = BuildAssigned(**IDS, node_id=3, attempt=1)
STARTED = BuildStarted(**IDS, node_id=3, attempt=1)
FINISHED = BuildFinished(**IDS, status="passed", node_id=3)
STORED = ArtifactStored(
    artifact_id=201,
    **IDS,
    path="reports/report.xml",
    type="report",
    content_type="application/xml",
    size_bytes=5,
    sha256="00",
    blob="jobs/5/builds/7/artifacts/201",
)
DELETED = ArtifactDeleted(artifact_id=201, **IDS, blob="jobs/5/builds/7/artifacts/201")


def store(by_node: int | None = None) -> StoreArtifact:
    return StoreArtifact(201, 7, "reports/report.xml", "application/xml", 5, "00", by_node)


@pytest.mark.parametrize("history", [(QUEUED,), (QUEUED, STARTED), (QUEUED, STARTED, FINISHED)])
def test_people_add_to_any_build(history: tuple[Event, ...]) -> None:
    given(*history).when(store()).then(STORED)
    given(*history, STORED).when(store()).then_nothing()


def test_nothing_is_added_after_the_job_was_deleted() -> None:
    """Its builds are aborted a moment later; their contents are gone already."""
    job = JobCreated(job_id=5, project_id=1, title="Smoke")
    given(job, QUEUED, ASSIGNED, STARTED).when(store(by_node=3)).then(STORED)
    with pytest.raises(NotFound):
        given(job, QUEUED, ASSIGNED, STARTED, JobDeleted(job_id=5, project_id=1)).when(store(by_node=3))


@pytest.mark.parametrize("history", [(QUEUED, ASSIGNED), (QUEUED, ASSIGNED, STARTED)])
def test_agents_add_to_builds_leased_to_them(history: tuple[Event, ...]) -> None:
    given(*history).when(store(by_node=3)).then(STORED)
    with pytest.raises(NotFound):
        given(*history).when(store(by_node=4))


def test_agents_add_to_no_other_builds() -> None:
    lost = BuildRequeued(**IDS, node_id=3, attempt=1, reason="agent_lost")
    for history in ((QUEUED,), (QUEUED, STARTED, lost), (QUEUED, BuildStarted(**IDS, node_id=None, attempt=1))):
        with pytest.raises(NotFound):
            given(*history).when(store(by_node=3))
    with pytest.raises(Conflict):
        given(QUEUED, STARTED, FINISHED).when(store(by_node=3))


@pytest.mark.parametrize("history", [(), (QUEUED, STARTED, FINISHED, BuildDeleted(**IDS))])
def test_there_is_no_such_build(history: tuple[Event, ...]) -> None:
    for by_node in (None, 3):
        with pytest.raises(NotFound):
            given(*history).when(store(by_node))


@pytest.mark.parametrize("history", [(QUEUED, STARTED), (QUEUED, STARTED, FINISHED)])
def test_delete(history: tuple[Event, ...]) -> None:
    given(*history, STORED).when(DeleteArtifact(201, 7)).then(DELETED)


@pytest.mark.parametrize("history", [(QUEUED,), (QUEUED, STORED, DELETED), (QUEUED, STORED, BuildDeleted(**IDS))])
def test_there_is_no_such_artifact(history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound, match="artifact 201"):
        given(*history).when(DeleteArtifact(201, 7))


def test_a_pinned_builds_artifacts_stay() -> None:
    history = (QUEUED, STARTED, FINISHED, STORED, BuildPinned(**IDS))
    with pytest.raises(Conflict, match="kept for ever"):
        given(*history).when(DeleteArtifact(201, 7))
    given(*history, BuildUnpinned(**IDS)).when(DeleteArtifact(201, 7)).then(DELETED)


@pytest.mark.parametrize(
    ("folder", "file_name", "path"),
    [
        ("", "report.xml", "report.xml"),
        ("reports/", "report.xml", "reports/report.xml"),
        ("reports/other.xml/", "report.xml", "reports/other.xml/report.xml"),
        ("reports/v1.2", "report.xml", "reports/v1.2/report.xml"),
        ("", "C:\\fakepath\\report.xml", "report.xml"),
        ("a\\b\\", "../../etc/passwd", "a/b/passwd"),
        ("./a//b/./", "x", "a/b/x"),
        ("Prüfung/", "日本 語.log", "Prüfung/日本 語.log"),
        ("", "..x", "..x"),
    ],
)
def test_paths(folder: str, file_name: str, path: str) -> None:
    assert artifact_path(folder, file_name) == path


@pytest.mark.parametrize(
    ("folder", "file_name"),
    [
        ("/etc/", "x"),
        ("\\\\host\\share\\", "x"),
        ("C:/", "x"),
        ("../", "x"),
        ("a/../../", "x"),
        ("a\\..\\", "x"),
        ("", ".."),
        ("", ""),
        ("a/", ""),
        ("a/", "."),
        ("", "a\nb"),
        ("a\0/", "x"),
        ("", "\x7f"),
        ("a/", "x" * 999),
        ("a/" * 51, "x"),
    ],
)
def test_paths_that_are_refused(folder: str, file_name: str) -> None:
    with pytest.raises(Invalid) as caught:
        artifact_path(folder, file_name)
    assert caught.value.errors[0].field == "path"


@pytest.mark.parametrize("folder", ["other.xml", "reports/other.XML"])
def test_a_path_that_seems_to_be_another_name_of_the_file_is_refused(folder: str) -> None:
    with pytest.raises(Invalid) as caught:
        artifact_path(folder, "report.xml")
    last = folder.rpartition("/")[2]
    assert caught.value.errors[0].message == (
        f"must be a folder, like `{last}/`, or end in the file's name, `report.xml`: to store it as `{last}`,"
        " upload it under that name"
    )


@hypothesis.given(st.text(max_size=40), st.text(max_size=40))
def test_no_path_leads_out(folder: str, file_name: str) -> None:
    try:
        path = artifact_path(folder, file_name)
    except Invalid:
        return
    assert 0 < len(path) <= 1_000
    assert not {"", ".", ".."} & set(path.split("/"))
    assert path.isprintable() or all(ord(char) > 0x9F for char in path if not char.isprintable())
    assert artifact_path(path, path.rpartition("/")[2]) == path


def test_a_glob_matches_what_the_agent_finds(tmp_path: Path) -> None:
    paths = ["a.xml", "b", "r/.c.xml", "r/a.xml", "r/s/a.xml", "r/s/t/a.trx"]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    globs = [
        "*.xml",
        "*",
        "r",
        "r/",
        "./r//s",
        "r/*.xml",
        "r/*/*",
        "**/a.*",
        "**",
        "r/**",
        "r/**/**/a.trx",
        "**/s/*.xml",
    ]
    globs += ["r/[ab].xml", "?", "A.xml", "a.xml/b", "**/none/**", "*/**/t"]
    for glob in globs:
        assert [path for path in paths if matches_glob(path, glob)] == find_files(str(tmp_path), glob), glob


@pytest.mark.parametrize(
    ("path", "globs", "by_wildcard"),
    [
        ("r/a.xml", [], False),
        ("r/a.xml", ["r/a.xml"], False),
        ("r/a.xml", ["*.log", "r/*.xml"], True),
        ("r/a.xml", ["r"], True),
        ("r/a.xml", ["r/*.xml", "./r/a.xml"], False),
    ],
)
def test_a_wildcard_finds_what_no_glob_names(path: str, globs: list[str], by_wildcard: bool) -> None:
    assert is_found_by_wildcard(path, globs) == by_wildcard


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a/junit.XML", "report"),
        ("x.trx", "report"),
        ("report.json", "report"),
        ("a/report-2.html", "report"),
        ("index.html", "binary"),
        ("data.json", "binary"),
        ("a.log", "log"),
        ("notes.txt", "log"),
        ("s.png", "screenshot"),
        ("s.JPG", "screenshot"),
        ("s.webp", "screenshot"),
        ("core", "binary"),
        (".xml", "binary"),
        ("a.xml/b", "binary"),
    ],
)
def test_types_follow_from_names(path: str, kind: str) -> None:
    assert artifact_type(path) == kind


@pytest.mark.parametrize("kind", [StoreArtifact, DeleteArtifact])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*artifacts.EVENTS, *builds.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*artifacts.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(ARTIFACT, history)
