"""Reports of C++ tests by Catch2 and GoogleTest."""

import subprocess
from pathlib import Path

import pytest

from commands.reports.reading import ReportRead
from tests.real.runners.project import read, statuses_of
from tests.real.runners.verdicts import judge

CATCH2 = """
#include <catch2/catch_test_macros.hpp>
#include <stdexcept>
TEST_CASE("passes many") { CHECK(1 == 1); CHECK(2 == 2); CHECK(3 == 3); }
TEST_CASE("fails twice") { CHECK(1 == 2); CHECK(1 == 1); CHECK(2 == 3); }
TEST_CASE("throws") { CHECK(1 == 1); throw std::runtime_error("boom"); }
TEST_CASE("parts") { SECTION("one") { CHECK(1 == 1); } SECTION("two") { CHECK(1 == 2); } }
TEST_CASE("may fail", "[!mayfail]") { CHECK(1 == 2); }
TEST_CASE("later") { SKIP("later"); }
"""
GTEST = """
#include <gtest/gtest.h>
TEST(Cart, Passes) {}
TEST(Cart, FailsTwice) { EXPECT_EQ(1, 2); EXPECT_EQ(2, 3); }
TEST(Cart, Skipped) { GTEST_SKIP() << "later"; }
TEST(Cart, DISABLED_Later) {}
class Unprepared : public testing::Test { protected: static void SetUpTestSuite() { FAIL() << "no database"; } };
TEST_F(Unprepared, Passes) {}
"""


def build(folder: Path, source: str, *libraries: str) -> Path:
    """Returns the program that runs the tests."""
    (folder / "test.cpp").write_text(source)
    subprocess.run(["g++", "-O0", "-o", "tests", "test.cpp", *libraries], cwd=folder, check=True)
    return folder / "tests"


def run(program: Path, *options: str) -> tuple[int, ReportRead]:
    done = subprocess.run([program, *options], cwd=program.parent, capture_output=True)
    return done.returncode, read(program.parent / "junit.xml")


@pytest.mark.real("g++")
def test_catch2_counts_assertions(tmp_path: Path) -> None:
    program = build(tmp_path, CATCH2, "-lCatch2Main", "-lCatch2")
    exit_code, report = run(program, "--reporter", "junit", "--out", "junit.xml")
    assert (exit_code, report.is_unreadable, report.warnings) == (42, False, [])
    assert statuses_of(report) == {
        "tests.global.passes many": "passed",
        "tests.global.fails twice": "failed",
        "tests.global.throws": "failed",
        "tests.global.parts": "passed",
        "tests.global.parts/one": "passed",
        "tests.global.parts/two": "failed",
    }
    path = tmp_path / "junit.xml"
    cut = path.read_text().replace('<failure message="1 == 2"', "<lost").replace("</failure>", "</lost>", 1)
    path.write_text(cut)
    assert read(path).is_unreadable

    exit_code, report = run(program, "may fail", "--reporter", "junit", "--out", "junit.xml")
    assert (exit_code, judge([(exit_code, path)])[0]) == (0, "passed")


@pytest.mark.real("g++")
def test_a_suite_of_gtest_that_cannot_be_set_up(tmp_path: Path) -> None:
    program = build(tmp_path, GTEST, "-lgtest", "-lgtest_main", "-lpthread")
    exit_code, report = run(program, "--gtest_output=xml:junit.xml", "--gtest_filter=Cart*")
    assert (exit_code, report.is_unreadable, report.warnings) == (1, False, [])
    failed = "test.cpp::Cart::FailsTwice"
    assert statuses_of(report) == {"test.cpp::Cart::Passes": "passed", failed: "failed"}
    assert judge([(exit_code, tmp_path / "junit.xml")], [failed])[0] == "passed"

    exit_code, report = run(program, "--gtest_output=xml:junit.xml")
    assert (exit_code, report.is_unreadable, report.unloaded) == (1, False, 1)
    assert judge([(exit_code, tmp_path / "junit.xml")], [failed, "Unprepared > (no name)"])[0] == "failed"
