"""What tools print when something fails: tool -> (output, a text that an excerpt must show)."""

FAILURES = {
    "pytest": (
        """\
=================================== FAILURES ===================================
______________________________ test_adds_up ______________________________

    def test_adds_up():
        cart = Cart()
>       assert cart.total == 12
E       assert 11 == 12
E        +  where 11 = <Cart>.total

tests/test_cart.py:14: AssertionError
=========================== short test summary info ============================
FAILED tests/test_cart.py::test_adds_up - assert 11 == 12
========================= 1 failed, 31 passed in 0.51s =========================""",
        "assert 11 == 12",
    ),
    "unittest": (
        """\
======================================================================
FAIL: test_upper (test_text.Upper.test_upper)
----------------------------------------------------------------------
Traceback (most recent call last):
  File "/src/test_text.py", line 7, in test_upper
    self.assertEqual("a".upper(), "B")
AssertionError: 'A' != 'B'

----------------------------------------------------------------------
Ran 310 tests in 3.101s

FAILED (failures=1)""",
        "AssertionError: 'A' != 'B'",
    ),
    "a traceback of a script": (
        """\
Traceback (most recent call last):
  File "/src/deploy.py", line 40, in <module>
    main()
  File "/src/deploy.py", line 12, in main
    token = os.environ["TOKEN"]
KeyError: 'TOKEN'""",
        "KeyError: 'TOKEN'",
    ),
    "go": (
        """\
=== RUN   TestParse
    parse_test.go:31: got 4, want 5
--- FAIL: TestParse (0.00s)
FAIL
FAIL	example.org/parse	0.004s
ok  	example.org/print	0.002s
FAIL""",
        "got 4, want 5",
    ),
    "a panic of go": (
        """\
panic: runtime error: index out of range [5] with length 3

goroutine 1 [running]:
main.main()
	/src/main.go:8 +0x1d
exit status 2""",
        "index out of range",
    ),
    "cargo test": (
        """\
test tests::multiplies ... ok
test tests::adds ... FAILED

failures:

---- tests::adds stdout ----
thread 'tests::adds' panicked at src/lib.rs:12:9:
assertion `left == right` failed
  left: 4
 right: 5
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace


failures:
    tests::adds

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

error: test failed, to rerun pass `--lib`""",
        "panicked at src/lib.rs:12:9",
    ),
    "rustc": (
        """\
error[E0308]: mismatched types
 --> src/main.rs:4:18
  |
4 |     let x: i32 = "a";
  |            ---   ^^^ expected `i32`, found `&str`

error: aborting due to 1 previous error

error: could not compile `shop` (bin "shop") due to 1 previous error""",
        "mismatched types",
    ),
    "gcc": (
        """\
gcc -Wall -Werror -c -o main.o main.c
main.c: In function 'main':
main.c:5:5: error: 'count' undeclared (first use in this function)
    5 |     count = 3;
      |     ^~~~~
make: *** [Makefile:9: main.o] Error 1""",
        "'count' undeclared",
    ),
    "a linker": (
        """\
/usr/bin/ld: main.o: in function `main':
main.c:(.text+0x9): undefined reference to `start_engine'
collect2: error: ld returned 1 exit status
make: *** [Makefile:12: app] Error 1""",
        "undefined reference to `start_engine'",
    ),
    "maven's compiler": (
        """\
[INFO] -------------------------------------------------------------
[ERROR] COMPILATION ERROR :
[INFO] -------------------------------------------------------------
[ERROR] /src/main/java/org/example/Shop.java:[17,9] cannot find symbol
  symbol:   class Cart
[INFO] 1 error
[INFO] ------------------------------------------------------------------------
[INFO] BUILD FAILURE
[INFO] ------------------------------------------------------------------------
[ERROR] Failed to execute goal org.apache.maven.plugins:maven-compiler-plugin:3.8.1:compile (default-compile)
[ERROR] To see the full stack trace of the errors, re-run Maven with the -e switch.""",
        "Shop.java:[17,9] cannot find symbol",
    ),
    "gradle": (
        """\
> Task :app:test FAILED

org.example.CartTest > addsUp FAILED
    java.lang.AssertionError: expected:<12> but was:<11>
        at org.junit.Assert.fail(Assert.java:89)
        at org.example.CartTest.addsUp(CartTest.java:21)

31 tests completed, 1 failed

FAILURE: Build failed with an exception.

* What went wrong:
Execution failed for task ':app:test'.
> There were failing tests. See the report at: file:///src/app/build/reports/tests/test/index.html

* Try:
> Run with --stacktrace option to get the stack trace.

BUILD FAILED in 12s""",
        "expected:<12> but was:<11>",
    ),
    "jest": (
        """\
 FAIL  src/cart.test.js
  ● Cart › adds up

    expect(received).toBe(expected) // Object.is equality

    Expected: 12
    Received: 11

      at Object.toBe (src/cart.test.js:9:24)

Test Suites: 1 failed, 4 passed, 5 total
Tests:       1 failed, 20 passed, 21 total
npm ERR! code ELIFECYCLE
npm ERR! errno 1""",
        "● Cart › adds up",
    ),
    "mocha": (
        """\
  20 passing (34ms)
  1 failing

  1) Cart
       adds up:

      AssertionError [ERR_ASSERTION]: Expected values to be strictly equal:

11 !== 12

      at Context.<anonymous> (test/cart.js:9:12)
      at process.processImmediate (node:internal/timers:476:21)""",
        "Expected values to be strictly equal",
    ),
    "eslint": (
        """\
/src/cart.js
  3:7   error  'total' is assigned a value but never used  no-unused-vars
  9:1   error  Unexpected console statement                no-console

✖ 2 problems (2 errors, 0 warnings)

npm ERR! Lifecycle script `lint` failed with error:
npm ERR! code 1""",
        "'total' is assigned a value but never used",
    ),
    "tsc": ("src/cart.ts(4,9): error TS2322: Type 'string' is not assignable to type 'number'.", "TS2322"),
    "rspec": (
        """\
Failures:

  1) Cart adds up
     Failure/Error: expect(cart.total).to eq(12)

       expected: 12
            got: 11

       (compared using ==)
     # ./spec/cart_spec.rb:6:in `block (2 levels) in <top (required)>'

Finished in 0.01034 seconds (files took 0.08 seconds to load)
31 examples, 1 failure

Failed examples:

rspec ./spec/cart_spec.rb:4 # Cart adds up""",
        "expected: 12",
    ),
    "minitest": (
        """\
  1) Failure:
CartTest#test_adds_up [test/cart_test.rb:9]:
Expected: 12
  Actual: 11

31 runs, 31 assertions, 1 failures, 0 errors, 0 skips
rake aborted!
Command failed with status (1)""",
        "CartTest#test_adds_up",
    ),
    "phpunit": (
        """\
There was 1 failure:

1) CartTest::testAddsUp
Failed asserting that 11 matches expected 12.

/src/tests/CartTest.php:15

FAILURES!
Tests: 31, Assertions: 31, Failures: 1.""",
        "Failed asserting that 11 matches expected 12.",
    ),
    "dotnet test": (
        """\
  Failed Shop.Tests.CartTests.AddsUp [12 ms]
  Error Message:
   Assert.Equal() Failure: Values differ
Expected: 12
Actual:   11
  Stack Trace:
     at Shop.Tests.CartTests.AddsUp() in /src/CartTests.cs:line 14

Failed!  - Failed:     1, Passed:    31, Skipped:     0, Total:    32, Duration: 35 ms""",
        "Assert.Equal() Failure",
    ),
    "googletest": (
        """\
[ RUN      ] Cart.AddsUp
cart_test.cc:9: Failure
Expected equality of these values:
  cart.total()
    Which is: 11
  12
[  FAILED  ] Cart.AddsUp (0 ms)
[==========] 31 tests from 4 test suites ran. (3 ms total)
[  PASSED  ] 30 tests.
[  FAILED  ] 1 test, listed below:
[  FAILED  ] Cart.AddsUp""",
        "Which is: 11",
    ),
    "tap": (
        """\
not ok 3 - adds up
  ---
  operator: equal
  expected: 12
  actual:   11
  ...
1..3
# tests 3
# pass  2
# fail  1""",
        "not ok 3 - adds up",
    ),
    "npm's resolver": (
        """\
npm ERR! code ERESOLVE
npm ERR! ERESOLVE unable to resolve dependency tree
npm ERR!
npm ERR! Found: react@18.2.0
npm ERR! A complete log of this run can be found in: /root/.npm/_logs/debug-0.log""",
        "unable to resolve dependency tree",
    ),
    "pip": (
        """\
ERROR: Could not find a version that satisfies the requirement shop-core==9.9 (from versions: 1.0, 1.1)
ERROR: No matching distribution found for shop-core==9.9""",
        "shop-core==9.9",
    ),
    "git": (
        """\
remote: Enumerating objects: 12, done.
fatal: couldn't find remote ref feature/gone""",
        "couldn't find remote ref",
    ),
    "a shell": ("./build.sh: line 12: cmake: command not found", "cmake: command not found"),
    "docker": (
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        "Cannot connect to the Docker daemon",
    ),
    "a full disk": ("tar: build/app.bin: Cannot write: No space left on device", "No space left"),
    "a crash": (
        """\
==1234==ERROR: AddressSanitizer: heap-use-after-free on address 0x6020000000d0
    #0 0x4f5a3b in next /src/list.c:31
    #1 0x4f5c01 in main /src/main.c:9""",
        "heap-use-after-free",
    ),
}
