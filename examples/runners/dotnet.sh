#!/bin/sh
# dotnet: the reports are TestResults/testhide.trx of each project. The ids are `Acme.FooTests.Adds(1)`; of a test with
# data rows all run. Exits with 1 if only tests failed, and with 2 if anything else did.
set -eu
if [ -n "${TESTHIDE_TEST_IDS_FILE:-}" ]; then
    # NUnit has the data of a row in the full name, xUnit and MSTest have not.
    filter=$(sed 's/[[({ ].*//; s/.*/FullyQualifiedName=&|FullyQualifiedName~&\\(/' "$TESTHIDE_TEST_IDS_FILE" | sort -u | paste -sd '|' -)
    set -- "$@" --filter "$filter"
fi
export DOTNET_CLI_UI_LANGUAGE=en
find . -path '*/TestResults/testhide.trx' -exec rm {} +
output=$(mktemp)
trap 'rm -f "$output"' EXIT
{ dotnet test --logger 'trx;LogFileName=testhide.trx' "$@" || echo "dotnet.sh: dotnet failed"; } 2>&1 | tee "$output"
# A project with several target frameworks writes one report over the other.
if grep -qE ': error |Overwriting results file' "$output"; then exit 2; fi
if grep -qx 'dotnet.sh: dotnet failed' "$output"; then
    if find . -path '*/TestResults/testhide.trx' -exec grep -q '<ResultSummary outcome="Failed"' {} \; -print | grep -q .; then
        exit 1
    fi
    exit 2
fi
