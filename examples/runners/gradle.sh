#!/bin/sh
# gradle: the reports are in build/test-results. The ids are `com.acme.FooTest.bar`; of a parameterized test all run.
# Runs the tests of all projects. Exits with 1 if only tests failed, and with 2 if anything else did, such as a test JVM
# that ended early and left no report.
set -eu
if [ -n "${TESTHIDE_TEST_IDS_FILE:-}" ]; then
    for id in $(sed 's/[[({ ].*//' "$TESTHIDE_TEST_IDS_FILE" | sort -u); do
        set -- "$@" --tests "$id" --tests "$id[*"
    done
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{ code=0; ./gradlew --continue test "$@" 2>&1 || code=$?; echo $code >"$folder/code"; } | tee "$folder/output"
if [ "$(cat "$folder/code")" = 0 ]; then exit 0; fi
count() { grep -c "$1" "$folder/output" || true; }
problems=$(count '^\* What went wrong:')
failed=$(count '^> There were failing tests')
empty=$(count '^> No tests found for given includes') # projects that have none of the tests that the file lists
if [ "$problems" = 0 ] || [ "$problems" -gt $((failed + empty)) ]; then exit 2; fi
if [ "$failed" -gt 0 ] || [ -z "${TESTHIDE_TEST_IDS_FILE:-}" ]; then exit 1; fi
