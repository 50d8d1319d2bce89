#!/bin/sh
# go: whole tests for their subtests. The ids are `package.TestName/sub`.
# Exits with 2 if a package ended before its last test, as after a panic, an `os.Exit` or a timeout: go exits with 1 as
# for failed tests, and junit.xml does not mention the tests that did not run.
set -eu
set -- "$@"
if [ -n "${TESTHIDE_TEST_IDS_FILE:-}" ]; then
    tests=$(sed 's/.*\.\(\(Test\|Fuzz\|Example\)[^/]*\).*/\1/' "$TESTHIDE_TEST_IDS_FILE" | sort -u | paste -sd '|' -)
    set -- -run "^($tests)\$" "$@"
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
events=${GOTESTSUM_JSONFILE:-$folder/events}
code=0
gotestsum --junitfile junit.xml --jsonfile "$events" -- "$@" ./... || code=$?
# The tests of a package end with the line PASS or FAIL. A test that replaces os.Stdout may hide PASS.
cut_short=$(awk '
    !match($0, /"Package":"[^"]*"/) { next }
    { package = substr($0, RSTART + 11, RLENGTH - 12) }
    /"Action":"run"/ { begun[package] }
    /"Test":"/ { next }
    /"Action":"pass"/ || /"Output":"(PASS|FAIL)\\n"/ { ended[package] }
    END { for (package in begun) if (!(package in ended)) print package }
' "$events" | sort)
if [ -n "$cut_short" ]; then
    echo "go.sh: a test ended these packages, so later tests may not have run:" $cut_short >&2
    exit 2
fi
exit "$code"
