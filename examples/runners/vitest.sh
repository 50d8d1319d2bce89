#!/bin/sh
# vitest: files as arguments, titles as one pattern. The ids are `file > describe > title`.
set -eu
set -- run --reporter=default --reporter=junit --outputFile.junit=junit.xml "$@"
if [ -n "${TESTHIDE_TEST_IDS_FILE:-}" ]; then
    titles=$(sed 's/^[^>]* > //; s/ > / /g; s/[][\.*^$+?(){}|/]/\\&/g' "$TESTHIDE_TEST_IDS_FILE" | paste -sd '|' -)
    set -- "$@" --testNamePattern "^($titles)\$" $(sed 's/ > .*//' "$TESTHIDE_TEST_IDS_FILE" | sort -u)
fi
exec npx vitest "$@"
