"""Artifacts byte for byte, masked reports, and no file from outside the workspace."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.agent.fake_server import TOKEN, Answer, FakeServer, ReceivedBuild
from tests.agent.harness import SYSTEM_PYTHON, Agent, StartAgent

from agent.build.artifacts import find_files
from agent.build.build_client import BuildClient
from agent.build.collection import Collector, FindTimeout
from agent.build.log import Log
from agent.build.masking import Masker
from agent.build.report_markup import is_markup
from agent.build.workspace import Workspace
from agent.credentials import TokenHolder
from agent.server_client import ServerClient
from agent.task import Interrupt

REPORT = '<testsuites><testsuite><testcase name="a"/><testcase name="b"/></testsuite></testsuites>'
SECRET = 'to<ken&"42'


@pytest.mark.usefixtures("agent")
def test_artifacts_are_kept_byte_for_byte(server: FakeServer) -> None:
    build = server.queue(
        "mkdir -p dist/deep 'a b'; head -c 3000000 /dev/urandom > dist/deep/big.bin;"
        " printf '\\r\\n--x\\0' > 'a b/ä.txt';"
        " : > dist/empty; sha256sum < dist/deep/big.bin; touch not-asked",
        artifacts=["dist", "a b/*.txt", "nothing/*"],
    )
    assert server.wait_finished(build)["exit_code"] == 0, build.lines

    assert set(build.artifacts) == {"dist/deep/big.bin", "dist/empty", "a b/ä.txt"}
    assert hashlib.sha256(build.artifacts["dist/deep/big.bin"]).hexdigest() == build.printed[0].split()[0]
    assert build.artifacts["a b/ä.txt"] == b"\r\n--x\0"
    assert build.artifacts["dist/empty"] == b""
    assert "==> Artifacts nothing/*: no such file" in build.lines


@pytest.mark.usefixtures("agent")
def test_files_outside_the_workspace_are_refused(server: FakeServer, folder: Path) -> None:
    (folder / "outside").mkdir()
    (folder / "outside" / "file").write_text("not of this build")
    build = server.queue(
        f"ln -s {folder}/outside/file link; ln -s {folder}/outside folder; mkfifo pipe;"
        " echo in > real; ln -s real inner;"
        f" ln {folder}/outside/file hard 2> /dev/null; true",
        artifacts=["*", f"{folder}/outside/*", "../*", "folder/file"],
    )
    server.wait_finished(build)

    if os.geteuid() != 0:
        build.artifacts.pop("hard", None)  # of the same user
    assert build.artifacts == {"real": b"in\n", "inner": b"in\n"}
    assert "==> link: not taken, it leads out of the workspace" in build.lines
    assert "==> folder: not taken, it leads out of the workspace" in build.lines
    assert "==> pipe: not taken, it is not a regular file" in build.lines
    assert "==> Artifacts ../*: refused, it must not contain .." in build.lines
    assert f"==> Artifacts {folder}/outside/*: refused, it must be relative to the workspace" in build.lines


@pytest.mark.usefixtures("agent")
def test_reports_are_found_and_sent(server: FakeServer) -> None:
    build = server.queue(
        f"echo '{REPORT}' > $TESTHIDE_REPORT_XML; mkdir out; echo '{REPORT}' > out/TEST-x.xml;"
        " echo '<project/>' > out/pom.xml;"
        " : > out/junit.xml; touch -d '2 hours ago' out/junit.xml; : > out/report.xml; exit 1",
        artifacts=["out"],
    )
    assert server.wait_finished(build)["exit_code"] == 1

    assert set(build.reports) == {"junittests.xml", "out/TEST-x.xml", "out/report.xml"}
    assert build.reports["junittests.xml"] == REPORT.encode() + b"\n"
    assert set(build.artifacts) == {"out/TEST-x.xml", "out/pom.xml", "out/junit.xml", "out/report.xml"}
    assert "==> junittests.xml: 2 results" in build.lines


@pytest.mark.usefixtures("agent")
def test_a_file_name_is_one_line_of_the_log(server: FakeServer) -> None:
    build = server.queue(""": > "$(printf 'a\\n==> b.txt')" """, artifacts=["*.txt"])
    server.wait_finished(build)
    assert [line for line in build.lines if "b.txt: kept" in line] == [r"==> a\n==> b.txt: kept, 0 bytes"]


@pytest.mark.usefixtures("agent")
def test_patterns_of_reports_that_match_no_file_are_sent(server: FakeServer) -> None:
    build = server.queue(
        f"echo '{REPORT}' > r.xml", artifacts=["r.xml", "out/TEST-*.xml", "**/*.trx", "r.xml.gz", "dist", "*.txt"]
    )
    server.wait_finished(build)

    assert build.missing_reports == ["out/TEST-*.xml", "**/*.trx", "r.xml.gz"]
    assert "==> Artifacts out/TEST-*.xml: no such file" in build.lines


@pytest.mark.usefixtures("agent")
def test_results_of_testng_beside_junit_are_no_report(server: FakeServer) -> None:
    """Surefire writes both. TestNG's own file alone is sent, so that the server fails the build."""
    build = server.queue(
        f"mkdir -p both/junitreports alone; echo '{REPORT}' > both/junitreports/TEST-x.xml;"
        " echo '<testng-results/>' | tee both/testng-results.xml > alone/testng-results.xml",
        artifacts=["**/*.xml"],
    )
    server.wait_finished(build)

    assert set(build.reports) == {"both/junitreports/TEST-x.xml", "alone/testng-results.xml"}
    assert "both/testng-results.xml" in build.artifacts
    assert build.missing_reports == []


@pytest.mark.usefixtures("agent")
def test_patterns_of_reports_that_match_no_report_of_this_build_are_sent(server: FakeServer) -> None:
    """One matches a report that is older than the build, one only a folder, and one XML of another kind."""
    build = server.queue(
        f"mkdir old d.xml; echo '{REPORT}' > old/r.xml; touch -d '2 hours ago' old/r.xml; echo > d.xml/a.txt;"
        " echo '<coverage/>' > coverage.xml; mkdir e.trx",
        artifacts=["old/*.xml", "d*.xml", "coverage.xml", "e.trx"],
    )
    server.wait_finished(build)

    assert build.missing_reports == ["old/*.xml", "d*.xml", "e.trx"]
    assert "==> old/r.xml: not a report of this build, since the file is older than its first command" in build.lines


def test_a_report_that_the_agent_may_not_read_is_sent_as_unreadable(server: FakeServer, start: StartAgent) -> None:
    """One is closed itself, and the others are in a closed folder. Outside of the workspace nothing is said."""
    start(python=SYSTEM_PYTHON, user=65534 if os.geteuid() == 0 else None)
    build = server.queue(
        f"mkdir r d; echo '{REPORT}' | tee r/a.xml d/b.xml > old.xml; touch -d '2 hours ago' old.xml;"
        " chmod 000 r/a.xml old.xml d; ln -s /etc/shadow l.xml",
        artifacts=["r/*.xml", "d/*.xml", "d/b.xml", "old.xml", "l.xml"],
    )
    server.wait_finished(build)

    assert sorted(build.denied_reports) == ["d/*.xml", "d/b.xml", "r/a.xml"]
    assert sorted({*build.missing_reports}) == ["l.xml", "old.xml"]
    assert "==> r/a.xml: not taken, Permission denied" in build.lines


@pytest.mark.usefixtures("agent")
def test_a_file_that_should_be_a_report_is_sent_whatever_is_in_it(server: FakeServer, folder: Path) -> None:
    (folder / "outside.xml").write_text(REPORT)
    build = server.queue(
        "echo Segfault > junit.xml; echo '<coverage/>' > TEST-a.xml; echo '<testng-results/>' > t.xml;"
        " echo Killed > r.xml; : > empty.xml;"
        " echo garbage | tee bad.xml.gz > text.txt; echo '<coverage/>' > coverage.xml;"
        f" ln -s {folder}/outside.xml l.xml",
        artifacts=["*"],
    )
    server.wait_finished(build)

    assert set(build.reports) == {"junit.xml", "TEST-a.xml", "t.xml", "r.xml", "empty.xml", "bad.xml.gz"}
    assert build.missing_reports == ["l.xml"]


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("secrets", [{}, {"TOKEN": SECRET}])
def test_compressed_reports_are_sent_compressed(server: FakeServer, secrets: dict[str, str]) -> None:
    """One is cut off: what can be unpacked of it is sent, and the server sees that it has no end."""
    build = server.queue(
        "echo \"<testsuite><testcase name='$TOKEN'/></testsuite>\" | gzip > r.xml.gz; : | gzip > junit.xml.gz;"
        " echo '<project/>' | gzip > pom.xml.gz; gzip < r.xml.gz > not.gz; head -c 50 r.xml.gz > cut.xml.gz",
        secrets=secrets,
        artifacts=["*.gz"],
    )
    server.wait_finished(build)

    assert set(build.reports) == {"r.xml.gz", "junit.xml.gz", "cut.xml.gz"}
    expected = f"<testsuite><testcase name='{'***' if secrets else ''}'/></testsuite>\n"
    assert gzip.decompress(build.reports["r.xml.gz"]).decode() == expected
    assert build.artifacts["r.xml.gz"] == build.reports["r.xml.gz"]
    if secrets:
        assert expected.startswith(gzip.decompress(build.reports["cut.xml.gz"]).decode()[:-1])


@pytest.mark.usefixtures("agent")
def test_secrets_are_masked_in_log_and_reports(server: FakeServer) -> None:
    secrets = {"TOKEN": SECRET, "PEM": "-----BEGIN-----\nline-of-the-key\nab\n", "PIN": "42"}
    build = server.queue(
        'echo "$TOKEN|$PEM|$PIN"; printf %s "$TOKEN" | sed "s/&/\\&amp;/g; s/</\\&lt;/g" > escaped;'
        ' echo "<testsuite><testcase name=\\"$(cat escaped)\\"/></testsuite>" > r.xml; echo "$TOKEN" > plain',
        secrets=secrets,
        missing_secrets=["KEY", "DSN"],
        artifacts=["r.xml", "plain"],
        setup=[f"echo {SECRET!r} > /dev/null"],
    )
    server.wait_finished(build)

    assert build.printed == ["***|***", "***", "ab", "|42"]
    assert build.reports["r.xml"] == b'<testsuite><testcase name="***"/></testsuite>\n'
    assert build.artifacts["r.xml"] == build.reports["r.xml"]
    assert build.artifacts["plain"].decode() == SECRET + "\n"
    assert "==> Not masked, shorter than 4 characters: PIN" in build.lines
    assert "==> Secrets that have no value and are not set: KEY, DSN" in build.lines
    assert SECRET not in "".join(build.lines)


@pytest.mark.usefixtures("agent")
def test_a_refused_file_does_not_end_the_build(server: FakeServer) -> None:
    too_large: Answer = (413, {"detail": "too large"})
    server.fault = lambda call, *_: too_large if call in ("upload", "report") else None
    build = server.queue(f"echo '{REPORT}' > r.xml; exit 4", artifacts=["*"])

    assert server.wait_finished(build)["exit_code"] == 4
    assert build.lines.count("==> r.xml: not taken, too large") == 2


@pytest.mark.usefixtures("agent")
def test_an_upload_is_repeated_from_its_beginning(server: FakeServer) -> None:
    answers: Iterator[Answer | str] = iter([(503, None), "drop"])
    server.fault = lambda call, *_: next(answers, None) if call == "upload" else None
    build = server.queue("seq 100000 > numbers", artifacts=["numbers"])
    server.wait_finished(build)

    assert build.artifacts["numbers"].splitlines() == [b"%d" % number for number in range(1, 100001)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", ["a.txt"]),
        ("**/*.txt", ["a.txt", "d/b.txt", "d/e/c.txt"]),
        ("**", ["a.txt", "d/b.txt", "d/e/c.txt", "d/e/x"]),
        ("d", ["d/b.txt", "d/e/c.txt", "d/e/x"]),
        ("./d//e/", ["d/e/c.txt", "d/e/x"]),
        ("d/*/x", ["d/e/x"]),
        ("**/e", ["d/e/c.txt", "d/e/x"]),
        ("?.t[xy]t", ["a.txt"]),
        (".git/config", [".git/config"]),
        ("a.txt/b", []),
        ("missing", []),
    ],
)
def test_globs(tmp_path: Path, pattern: str, found: list[str]) -> None:
    for path in ("a.txt", "d/b.txt", "d/e/c.txt", "d/e/x", ".git/config"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "d" / "loop").symlink_to(tmp_path, target_is_directory=True)

    assert find_files(str(tmp_path), pattern) == found


def test_each_folder_is_visited_once(tmp_path: Path) -> None:
    """Twelve `**` in 60 folders within each other took about 10**12 visits."""
    folder = tmp_path
    for _ in range(60):
        folder = folder / "d"
        folder.mkdir()
    (folder / "file").touch()
    visits: list[int] = []

    def is_over() -> bool:
        visits.append(1)
        return False

    for pattern in ("/".join(["**"] * 12) + "/file", "**/d/" * 20 + "file", "**/*/" * 20 + "**/f*"):
        assert find_files(str(tmp_path), pattern, is_over) == ["d/" * 60 + "file"]
    assert len(visits) <= 3 * 130


def test_files_in_deep_folders_are_found(server: FakeServer, agent: Agent) -> None:
    """Python does not recurse that deep. A path that is too long is named, and nothing else is lost."""
    make = 'import os\nfor n in range(2100):\n  os.mkdir("d"); os.chdir("d")\n  if n == 1500: open("f", "w").write("x")'
    build = server.queue(f"{SYSTEM_PYTHON} -c '{make}'; echo y > g", artifacts=["**"])
    assert server.wait_finished(build)["exit_code"] == 0, build.lines
    assert agent.process.poll() is None
    assert build.artifacts == {"d/" * 1501 + "f": b"x", "g": b"y\n"}
    assert len([line for line in build.lines if line.endswith("d: not taken, File name too long")]) == 1


@pytest.mark.usefixtures("agent")
def test_a_search_without_end_can_be_stopped(server: FakeServer) -> None:
    links = "for i in 1 2 3 4 5 6 7 8 9; do ln -s . $i; done"
    build = server.queue(links, artifacts=["*/" * 12 + "nothing"])
    server.wait(lambda: "==> Exit code 0" in build.lines)
    server.stop(build)
    assert server.wait_finished(build)["reason"] == "stopped"


def collect(
    server: FakeServer, workspace: Workspace, *patterns: str, secrets: Sequence[str] = (), **options: float
) -> ReceivedBuild:
    """Collects the files of a build without an agent."""
    server.closes_connections = True
    received = server.queue("true")
    build_id, attempt = server.key(received)
    client = BuildClient(ServerClient(server.url, TokenHolder(TOKEN, None)), build_id, attempt, lambda _: True)
    masker = Masker(secrets)
    log = Log(str(workspace.folder.parent), masker, client.send_log, lambda _: True, lambda _: None)
    try:
        collector = Collector(workspace, None, client, masker, log, Interrupt(), **options)
        collector.run([*patterns], "junittests.xml", 0)
        log.finish()
    finally:
        log.close()
    return received


def test_a_search_has_a_time_limit(server: FakeServer, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "1-1", None)
    (workspace.root / "file").touch()
    with pytest.raises(FindTimeout, match="finding reports and artifacts took longer than 0 s"):
        collect(server, workspace, "*", _find_timeout_s=0)


def test_a_report_that_cannot_be_copied_is_sent_as_unreadable(server: FakeServer, tmp_path: Path) -> None:
    """The masked copy of a report has no folder here, as on a full disk. Nor is the report sent without a mask."""
    workspace = Workspace(tmp_path / "1-1", None)
    (workspace.root / "a.xml").write_text(REPORT)
    (workspace.root / "b.txt").write_text(REPORT)
    workspace.folder = tmp_path / "gone" / "1-1"
    workspace.folder.parent.mkdir()
    received = collect(server, workspace, "*", secrets=[SECRET])

    assert received.denied_reports == ["a.xml"]
    assert received.reports == {}
    assert set(received.artifacts) == {"b.txt"}
    assert [line for line in received.lines if "No such file" in line and "a.xml: not sent as a report" in line]


def test_patterns_whose_files_cannot_be_read_are_sent_as_unreadable(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two match more files than are collected, and one names no reports. `reports/junit.xml` is outside."""
    monkeypatch.setattr("agent.build.artifacts._MAX_FILES", 2)
    workspace = Workspace(tmp_path / "1-1", None)
    for name in ("a.xml", "b.xml", "c.xml"):
        (workspace.root / name).write_text(REPORT)
    received = collect(server, workspace, "*.xml", "*", "../reports/junit.xml", "/reports/*")

    assert received.denied_reports == ["*.xml"]
    assert received.missing_reports == ["../reports/junit.xml"]
    assert "==> Artifacts *.xml: refused, it matches more than 2 files" in received.lines


def test_results_of_testng_are_left_out_only_beside_the_junit_reports_of_the_same_run(
    server: FakeServer, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "1-1", None)
    for path in ("testng-results.xml", "a/testng-results.xml", "a/unit/testng-results.xml"):
        (workspace.root / path).parent.mkdir(exist_ok=True)
        (workspace.root / path).write_text("<testng-results failed='1'/>")
    (workspace.root / "a" / "unit" / "TEST-x.xml").write_text(REPORT)
    (workspace.root / "a" / "unit" / "open-test-report.xml").write_text("<e:events><e:started/></e:events>")
    received = collect(server, workspace, "**/*.xml")

    assert set(received.reports) == {"testng-results.xml", "a/testng-results.xml", "a/unit/TEST-x.xml"}


def test_a_report_may_have_a_name_in_capital_letters(server: FakeServer, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "1-1", None)
    (workspace.root / "JUNIT.XML").write_text(REPORT)
    received = collect(server, workspace, "JUNIT.XML", "R.XML")

    assert set(received.reports) == {"JUNIT.XML"}
    assert received.missing_reports == ["R.XML"]


def test_a_report_that_the_server_refuses_is_sent_as_unreadable(server: FakeServer, tmp_path: Path) -> None:
    """The server takes no path that is longer than 1,000 characters: it gets the end of such a path."""
    too_long: Answer = (422, {"detail": "too long"})
    server.fault = lambda call, query, _: too_long if call == "report" and len(query["path"]) > 1_000 else None
    workspace = Workspace(tmp_path / "1-1", None)
    folder = workspace.root / "/".join(["d" * 200] * 6)
    folder.mkdir(parents=True)
    (folder / "junit.xml").write_text(REPORT)
    received = collect(server, workspace, "**/junit.xml")

    (path,) = received.denied_reports
    assert len(path) == 1_000
    assert path.endswith("d/junit.xml")
    assert [line for line in received.lines if line.endswith("junit.xml: not taken, too long")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_stream_is_masked_across_its_chunks(encoding: str) -> None:
    masker = Masker([SECRET, "to<k", "other-secret"])
    text = (f"x{SECRET}y to<k other-secret{SECRET}" * 3).encode(encoding)
    for size in range(1, 60):
        chunks = (text[start : start + size] for start in range(0, len(text), size))
        masked = b"".join(masker.mask_chunks(chunks, is_markup))
        assert masked.decode(encoding) == "x***y *** ******" * 3


def test_without_a_secret_there_is_nothing_to_mask() -> None:
    assert not Masker(["", "abc", " \n "])
    assert Masker([]).mask(b"abc") == b"abc"
