#!/bin/sh
# vitest: files as arguments, titles as one pattern. The ids are `file > describe > title`. Turns off `bail`.
# Exits with 2 after an error outside of the tests: vitest exits with 1 as for failed tests, and tells of it only in its
# output. Exits with 2 also if there is no report.
set -eu
for option in "$@"; do
    case $option in
    -b | --bail | --bail=*)
        echo "vitest.sh: leave out $option, since other tests may not run after a failure then" >&2
        exit 2
        ;;
    esac
done
set -- run --bail=0 --reporter=default --reporter=junit --outputFile.junit=junit.xml "$@"
if [ -n "${TESTHIDE_TEST_IDS_FILE:-}" ]; then
    titles=$(sed 's/^[^>]* > //; s/ > / /g; s/[][\.*^$+?(){}|/]/\\&/g' "$TESTHIDE_TEST_IDS_FILE" | paste -sd '|' -)
    set -- "$@" --testNamePattern "^($titles)\$" $(sed 's/ > .*//' "$TESTHIDE_TEST_IDS_FILE" | sort -u)
fi
rm -f junit.xml
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{ code=0; npx vitest "$@" 2>&1 || code=$?; echo $code >"$folder/code"; } | tee "$folder/output"
if grep -q 'caught [0-9]* unhandled error' "$folder/output" || [ ! -s junit.xml ]; then exit 2; fi
exit "$(cat "$folder/code")"
