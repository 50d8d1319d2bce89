"""What build tools and more test runners print when something fails: tool -> (output, a text of an excerpt)."""

MORE_FAILURES = {
    "checkstyle": (
        """\
[INFO] There is 1 error reported by Checkstyle 8.19 with checkstyle.xml ruleset.
[ERROR] src/main/java/org/example/Shop.java:[3,8] (imports) UnusedImports: Unused import - java.util.List.
[INFO] BUILD FAILURE
[ERROR] Failed to execute goal org.apache.maven.plugins:maven-checkstyle-plugin:3.1.0:check: You have 1 violation.""",
        "Unused import - java.util.List",
    ),
    "a plugin of maven": (
        """\
[INFO] BUILD FAILURE
[INFO] ------------------------------------------------------------------------
[ERROR] Failed to execute goal com.mycila:license-maven-plugin:3.0:check: Some files have no expected license header
[ERROR]
[ERROR] To see the full stack trace of the errors, re-run Maven with the -e switch.""",
        "expected license header",
    ),
    "a plugin of gradle": (
        """\
> Task :app:lint FAILED

FAILURE: Build failed with an exception.

* What went wrong:
Execution failed for task ':app:lint'.
> Lint found errors in the project; aborting build.

* Try:
> Run with --stacktrace option to get the stack trace.

BUILD FAILED in 12s""",
        "Lint found errors in the project",
    ),
    "gradle's resolver": (
        """\
FAILURE: Build failed with an exception.

* What went wrong:
Could not resolve all files for configuration ':app:compileClasspath'.
> Could not find org.example:core:9.9.
  Searched in the following locations:
    - https://repo.example.org/org/example/core/9.9/core-9.9.pom

BUILD FAILED in 2s""",
        "Could not find org.example:core:9.9.",
    ),
    "bazel": (
        """\
FAIL: //src/test:cart_test (see /home/ci/.cache/test.log)
INFO: From Testing //src/test:cart_test:
JUnit4 Test Runner
1) addsUp(org.example.CartTest)
java.lang.AssertionError: expected:<12> but was:<11>
	at org.junit.Assert.fail(Assert.java:89)

//src/test:cart_test                              FAILED in 3.1s
Executed 1 out of 1 test: 1 fails locally.""",
        "//src/test:cart_test",
    ),
    "a time limit": (
        """\
org.example.SlowTest > waits STARTED

No output has been received in the last 10m0s, this potentially indicates a stalled build.
The build has been terminated""",
        "No output has been received",
    ),
    "karma": (
        "Chrome 70.0 (Linux 0.0.0) Cart adds up FAILED\n\tExpected 11 to be 12.\nExecuted 4 of 4 (1 FAILED)",
        "to be 12",
    ),
    "cmake": (
        'CMake Error at CMakeLists.txt:12 (find_package):\n  By not providing "FindFoo.cmake" this project wants it',
        "FindFoo.cmake",
    ),
    "elixir": (
        "  1) test adds up (CartTest)\n     test/cart_test.exs:5\n     left:  11\n\n3 tests, 1 failure",
        "left:  11",
    ),
    "phpcs": ("FILE: /src/Cart.php\n 12 | ERROR | [x] Line indented incorrectly", "indented incorrectly"),
    "go's compiler": ('# example.org/shop\n./cart.go:5:2: "fmt" imported and not used', "imported and not used"),
    "a crashed fork": (
        "[INFO] BUILD FAILURE\n[ERROR] Failed to execute goal org.apache.maven.plugins:maven-surefire-plugin:2.22:test:"
        " The forked VM terminated without properly saying goodbye.",
        "forked VM terminated",
    ),
    "sbt": (
        "[info] CartSpec:\n[info] - adds up *** FAILED ***\n[info]   11 did not equal 12 (CartSpec.scala:9)",
        "adds up",
    ),
    "testng": (
        "FAILED: addsUp\njava.lang.AssertionError: expected [12] but found [11]",
        "expected [12] but found [11]",
    ),
    "tslint": ("ERROR: src/cart.ts[12, 3]: Missing semicolon", "Missing semicolon"),
    "ant": (
        "[ant:checkstyle] [ERROR] /src/Cart.java:25:5: Missing a Javadoc comment. [JavadocMethod]",
        "Missing a Javadoc",
    ),
    "perl": ("#   Failed test 'adds up'\n#   at t/cart.t line 9.\n#          got: '11'\nResult: FAIL", "adds up"),
    "ctest": ("The following tests FAILED:\n\t  3 - cart (Failed)\nErrors while running CTest", "3 - cart (Failed)"),
}
