"""Secrets of a configuration: sealed values by name, which are given anew or kept."""

from collections.abc import Mapping

from domain.core.errors import Invalid


def kept(given: Mapping[str, bytes | None], stored: Mapping[str, bytes]) -> dict[str, bytes]:
    """The given values, and the stored ones where None is given. Raises Invalid where there is none to keep."""
    if unknown := sorted(name for name, value in given.items() if value is None and name not in stored):
        raise Invalid.field(f"secrets.{unknown[0]}", "has no stored value that could be kept; give one")
    return {name: stored[name] if value is None else value for name, value in given.items()}
