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
    "a hook of pre-commit": (
        """\
check yaml...............................................................Passed
end of file fixer........................................................Failed
- hook id: end-of-file-fixer
- exit code: 1
- files were modified by this hook
+++ b/src/report.py
-        print("Passed", "Failed", errors)
+        print("Failed", errors)
""",
        "hook id: end-of-file-fixer",
    ),
    "perl without a plan": (
        """\
Test Summary Report
-------------------
t/cart.t                (Wstat: 65280 Tests: 0 Failed: 0)
  Non-zero exit status: 255
  Parse errors: No plan found in TAP output
Files=3, Tests=9,  1 wallclock secs ( 0.02 usr  0.01 sys +  0.30 cusr  0.05 csys =  0.38 CPU)
Result: FAIL
Failed 1/3 test programs. 0/9 subtests failed.
  EXAMPLE/Cart-1.0.tar.gz
  ./Build test -- NOT OK
//hint// to see the results of others:
  reports EXAMPLE/Cart-1.0.tar.gz
Running Build install
  make test had returned bad status, won't install without force
Failed during this command:
 EXAMPLE/Cart-1.0.tar.gz                      : make_test NO
""",
        "No plan found",
    ),
    "a browser's harness": (
        """\
INFO - TEST-PASS | cart/test_empty.js | took 12ms
INFO - TEST-UNEXPECTED-FAIL | cart/test_total.js | the total - got 11, expected 12
INFO - runs | Shutting down the server
INFO - runs | Closing the connection
""",
        "got 11, expected 12",
    ),
    "vitest after its list": (
        """\
       ✓ is empty at first 1ms
       × adds up 30ms
       ✓ can be emptied 1ms
stdout | src/shop.test.ts > Shop > opens
opening
stdout | src/shop.test.ts > Shop > closes
closing

⎯⎯⎯ Failed Tests 1 ⎯⎯⎯

 FAIL  src/cart.test.ts > Cart > adds up
AssertionError: expected 11 to be 12
 ❯ src/cart.test.ts:9:5
""",
        "expected 11 to be 12",
    ),
    "cmake in a build script of cargo": (
        "error: failed to run custom build command for `zip-sys v0.1.0`\n\nCaused by:\n"
        "  process didn't exit successfully: `/target/debug/build/zip-sys/build-script-build` (exit status: 101)\n"
        "  --- stdout\n"
        + "  cargo:rerun-if-env-changed=ZIP\n" * 60
        + "  --- stderr\n  CMake Error at CMakeLists.txt:9 (find_package):\n    Could NOT find ZLIB\n",
        "Could NOT find ZLIB",
    ),
    "dnf": (
        """\
Failed to resolve the transaction:
No match for argument: pkgconfig(shop) >= 2.0.0
You can try to add to command line:
  --skip-unavailable to skip unavailable packages
Finish: build phase for cart-1.0-1.src.rpm
ERROR: Exception(/results/cart-1.0-1.src.rpm) Config(example-x86_64) 0 minutes 47 seconds
ERROR: Command failed:
 # /usr/bin/build --packages pkgconfig(shop)
""",
        "No match for argument: pkgconfig(shop)",
    ),
    "rails in rpmbuild": (
        """\
Error:
CartTest#test_adds_up:
NoMethodError: undefined method 'total' for an instance of Cart
    test/cart_test.rb:9:in 'CartTest#test_adds_up'

..........
Cart 7 was closed
..........
Cart 9 was closed
..........
31 runs, 31 assertions, 0 failures, 1 errors, 0 skips

RPM build errors:
error: Bad exit status from /var/tmp/rpm-tmp.abcdef (%check)
""",
        "undefined method 'total'",
    ),
    "configure after apt": (
        "E: Unable to locate package cart-plugin\n"
        + "Setting up libcart0 (1.0-1) ...\n" * 50
        + "checking for libxml-2.0 >= 2.9.0... no\n"
        + "configure: error: Package requirements (libxml-2.0 >= 2.9.0) were not met:\n",
        "(libxml-2.0 >= 2.9.0) were not met",
    ),
    "a race of go before skipped tests": (
        "fatal error: concurrent map writes\n\ngoroutine 10 [running]:\nexample.org/shop.Put(0x1)\n"
        "\t/src/shop.go:171 +0xc6\nFAIL\texample.org/shop\t0.008s\n"
        + "=== RUN   TestCart\n" * 60
        + "--- SKIP: TestRemote (0.00s)\n\tremote_test.go:27: Skipping test. Set REMOTE=true to run.\n" * 4,
        "concurrent map writes",
    ),
    "terraform": (
        """\
aws_vpc.main: Creation complete after 2s
╷
│ Error: creating DynamoDB Table (lock): AccessDeniedException: not authorized
│
│   with module.lock.aws_dynamodb_table.lock,
│   on lock/main.tf line 6, in resource "aws_dynamodb_table" "lock":
╵
""",
        "AccessDeniedException",
    ),
    "pytest with a long test": (
        """\
=================================== FAILURES ===================================
_________________________________ test_adds_up _________________________________

    def test_adds_up():
        cart = Cart()
        cart.add(5)

        cart.add(6)
        cart.discount(None)

        total = cart.total
        print(total)
>       assert total == 12
E       assert 11 == 12
""",
        "E       assert 11 == 12",
    ),
    "the set-up of a package under pip": (
        """\
  error: subprocess-exited-with-error

  × Preparing metadata (pyproject.toml) did not run successfully.
  │ exit code: 1
  ╰─> [3 lines of output]
      Traceback (most recent call last):
        File "<string>", line 1, in <module>
      RuntimeError: set CART_VERSION before building
      [end of output]

  note: This error originates from a subprocess, and is likely not a problem with pip.
error: metadata-generation-failed

× Encountered error while generating package metadata.
╰─> See above for output.
""",
        "set CART_VERSION before building",
    ),
}
