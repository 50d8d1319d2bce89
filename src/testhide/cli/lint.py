"""`testhide lint`: checks a `.testhide.yml`, without a server."""

import json
from pathlib import Path

from commands.pipelines.reading import read_pipelines
from commands.pipelines.yaml_nodes import MAX_BYTES, InvalidFile
from domain.gitops import FILE_NAME
from testhide.cli.options import Flag
from testhide.cli.printing import printable
from testhide.operator_errors import Fault


def lint(file: Path = Path(FILE_NAME), *, schema: Flag = False) -> int:
    """Check a file that describes pipelines. Ends with 1 if it has mistakes, and with 2 if it cannot be read.

    Parameters
    ----------
    file
        File to check.
    schema
        Print the JSON Schema of these files instead.
    """
    if schema:
        from api.description.pipeline_schema import describe_pipeline_file

        print(json.dumps(describe_pipeline_file(), indent=2, ensure_ascii=False))
        return 0
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise Fault(f"{file} cannot be read: {error.strerror}", 2) from None
    try:
        found = read_pipelines(content).file
    except InvalidFile as invalid:
        for fault in invalid.faults:
            print(printable(f"{file}:{fault}"))
        return 1
    print(f"{file}: {len(found.jobs)} job{'' if len(found.jobs) == 1 else 's'}, no mistakes")
    return 0
