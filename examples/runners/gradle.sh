#!/bin/sh
# gradle: the reports are in build/test-results. The ids are `com.acme.FooTest.bar`; of a parameterized test all run.
set -eu
if [ -n "${TESTHIDE_TEST_IDS_FILE:-}" ]; then
    for id in $(sed 's/[[( ].*//' "$TESTHIDE_TEST_IDS_FILE" | sort -u); do
        set -- "$@" --tests "$id"
    done
fi
exec ./gradlew test "$@"
