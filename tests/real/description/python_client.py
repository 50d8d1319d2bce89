"""A client that openapi-python-client has generated."""

from importlib import import_module
from typing import Any


class PythonClient:
    """Calls operations by their ids."""

    def __init__(self, url: str, token: str = "") -> None:
        package = import_module("testhide_client")
        self.models = import_module("testhide_client.models")
        self.file = import_module("testhide_client.types").File
        self._client = package.AuthenticatedClient(url, token) if token else package.Client(url)

    def __enter__(self) -> "PythonClient":
        self._client.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._client.__exit__(*error)

    def call(self, tag: str, operation: str, *ids: object, **arguments: Any) -> Any:
        """Calls an operation and returns its answer, which must have the described form."""
        module = import_module(f"testhide_client.api.{tag}.{operation}")
        answer = module.sync_detailed(*ids, client=self._client, **arguments)
        assert answer.parsed is not None or not answer.content, answer.content
        return answer.parsed
