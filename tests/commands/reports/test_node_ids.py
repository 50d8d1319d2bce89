import pytest

from commands.reports.parser.node_ids import Origin, node_id


@pytest.mark.parametrize(
    ("name", "classname", "file", "origin", "expected"),
    [
        # Python, with a file
        ("test_bad", "t.test_x.TestDeep", "t/test_x.py", Origin(), "t/test_x.py::TestDeep::test_bad"),
        ("test_bad", "test_x.TestDeep", "t/test_x.py", Origin(), "t/test_x.py::TestDeep::test_bad"),
        ("test_f", "test_same", "d/a/test_same.py", Origin(), "d/a/test_same.py::test_f"),
        ("test_f", "test_same", "d/b/test_same.py", Origin(), "d/b/test_same.py::test_f"),
        ("test_f", "test_same", "d\\b\\test_same.py", Origin(), "d/b/test_same.py::test_f"),
        ("test_f", "TestAcme", "./t/test_lib.py", Origin(), "t/test_lib.py::TestAcme::test_f"),
        ("t/test_x.py", "t.test_x", "t/test_x.py", Origin(), "t/test_x.py"),
        # unittest: the file is absolute, so it stays out
        ("test_f", "pkg.test_mod.Case", "/home/ci/pkg/test_mod.py", Origin(), "pkg.test_mod.Case.test_f"),
        ("test_f", "pkg.test_mod.Case", "C:\\ci\\test_mod.py", Origin(), "pkg.test_mod.Case.test_f"),
        ("test_f", "test_mod.Case", "", Origin(suite="unittest"), "test_mod.Case.test_f"),
        # pytest without a file
        (
            "test_a[x::y]",
            "t.test_x.TestDeep.TestInner",
            "",
            Origin(pytest=True),
            "t/test_x.py::TestDeep::TestInner::test_a[x::y]",
        ),
        ("test_a", "t.test_x.TestDeep", "", Origin(suite="nightly"), "t/test_x.py::TestDeep::test_a"),
        ("test_a", "t.x_test", "", Origin(), "t/x_test.py::test_a"),
        ("it_works", "checks.api.TestUser", "", Origin(pytest=True), "checks/api.py::TestUser::it_works"),
        ("t.test_x", "", "", Origin(pytest=True), "t/test_x.py"),
        # JavaScript
        ("adds", "sum > negatives", "src/sum.test.ts", Origin(), "src/sum.test.ts > sum > negatives > adds"),
        ("sum adds", "sum adds", "src/sum.test.ts", Origin(), "src/sum.test.ts > sum adds"),
        (
            "sum > adds",
            "src/sum.test.ts",
            "",
            Origin(suite="src/sum.test.ts"),
            "src/sum.test.ts > sum > adds",
        ),
        ("sum adds", "adds", "", Origin(suite="sum", suite_file="/ci/sum.spec.js"), "adds.sum adds"),
        # other files
        ("Cart adds", "spec.cart_spec", "./spec/cart_spec.rb", Origin(), "spec/cart_spec.rb::Cart adds"),
        ("Empty", "ParseTest", "tests/parse.cc", Origin(), "tests/parse.cc::ParseTest::Empty"),
        ("testX", "App.CartTest", "/srv/app/CartTest.php", Origin(), "App.CartTest.testX"),
        # class and name
        ("bar", "com.acme.FooTest", "", Origin(), "com.acme.FooTest.bar"),
        ("TestName/sub", "acme.test/pkg", "", Origin(suite="acme.test/pkg"), "acme.test/pkg.TestName/sub"),
        ("Acme.FooTests.Bar(x: 1)", "Acme.FooTests", "", Origin(), "Acme.FooTests.Bar(x: 1)"),
        ("adds", "", "", Origin(suite="sum"), "sum > adds"),
        ("adds", "", "", Origin(), "adds"),
    ],
)
def test_rules(name: str, classname: str, file: str, origin: Origin, expected: str) -> None:
    assert node_id(name, classname, file, origin=origin) == expected


def test_the_nodeid_property_wins() -> None:
    assert node_id("x", "y", "z.py", nodeid="a/b.py::C::x[1]") == "a/b.py::C::x[1]"
