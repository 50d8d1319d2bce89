import json
import sys
from pathlib import Path

import pytest

from tests.real.description.programs import run
from tests.support.description import describe

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("description") / "openapi.json"
    path.write_text(json.dumps(describe()))
    return path


@pytest.fixture
def package(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `testhide_client` that can be imported. A warning of its generator is a failure."""
    generator = (sys.executable, "-m", "openapi_python_client", "generate", "--path", document, "--meta", "none")
    config = ("--config", HERE / "python-client.yaml")
    run(*generator, *config, "--output-path", tmp_path / "testhide_client", "--fail-on-warning")
    monkeypatch.syspath_prepend(tmp_path)
