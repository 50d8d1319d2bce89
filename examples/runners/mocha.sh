#!/bin/sh
# mocha: whole titles as one pattern. The ids are what mocha-junit-reporter writes, `title.whole title`.
set -eu
set -- --reporter mocha-junit-reporter --reporter-option mochaFile=junit.xml "$@"
if [ -n "${TESTHIDE_TEST_IDS_FILE:-}" ]; then
    titles=$(sed 's/^\(.*\)\.\(.*\1\)$/\2/; s/[][\.*^$+?(){}|/]/\\&/g' "$TESTHIDE_TEST_IDS_FILE" | paste -sd '|' -)
    set -- "$@" --grep "^($titles)\$"
fi
exec npx mocha "$@"
