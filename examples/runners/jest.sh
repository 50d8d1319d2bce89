#!/bin/sh
# jest: files as arguments, titles as one pattern. With these settings of jest-junit the ids are
# `file > describe > title`. Turns off `bail`. Exits with 2 if jest ends without a report, as after a `process.exit(0)` in a test.
set -eu
for option in "$@"; do
    case $option in
    -b | --bail | --bail=*)
        echo "jest.sh: leave out $option, since other tests may not run after a failure then" >&2
        exit 2
        ;;
    esac
done
export JEST_JUNIT_ADD_FILE_ATTRIBUTE=true JEST_JUNIT_ANCESTOR_SEPARATOR=' > '
export JEST_JUNIT_CLASSNAME='{classname}' JEST_JUNIT_TITLE='{title}'
export JEST_JUNIT_OUTPUT_FILE="${JEST_JUNIT_OUTPUT_FILE:-junit.xml}"
set -- "$@" --reporters=default --reporters=jest-junit --ci --bail=0
if [ -n "${TESTHIDE_TEST_IDS_FILE:-}" ]; then
    titles=$(sed 's/^[^>]* > //; s/ > / /g; s/[][\.*^$+?(){}|/]/\\&/g' "$TESTHIDE_TEST_IDS_FILE" | paste -sd '|' -)
    files=
    for file in $(sed 's/ > .*//' "$TESTHIDE_TEST_IDS_FILE" | sort -u); do
        for given in "$@"; do
            case $given in "$file" | "./$file" | "$PWD/$file") continue 2 ;; esac # jest would run it twice
        done
        files="$files $file"
    done
    set -- "$@" --testNamePattern "^($titles)\$" --runTestsByPath $files
fi
rm -f "$JEST_JUNIT_OUTPUT_FILE"
code=0
npx jest "$@" || code=$?
if [ ! -s "$JEST_JUNIT_OUTPUT_FILE" ]; then
    echo "jest ended with exit code $code and without its report $JEST_JUNIT_OUTPUT_FILE" >&2
    exit 2
fi
exit $code
