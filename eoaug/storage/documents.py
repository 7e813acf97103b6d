"""Reads YAML within limits."""

from __future__ import annotations

from typing import Any

from eoaug.errors import ParameterError

__all__ = ["load_yaml"]


def load_yaml(text: str, *, what: str) -> Any:
    """Read YAML that holds plain values only: no objects, no aliases, no key twice.

    Raises
    ------
    ParameterError
        With the line where it goes wrong.
    """
    import yaml

    class Plain(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("aliases are not read")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for key in keys if keys.count(key) > 1]
            if twice:
                raise yaml.YAMLError(f"key {twice[0]!r} is there twice")
            return super().construct_mapping(node, deep)

    if len(text) > 2**20:
        raise ParameterError(f"{what} has {len(text)} characters of YAML.", "Keep it below a million.")
    try:
        return yaml.load(text, Plain)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        told = " ".join(str(error).split())
        raise ParameterError(
            f"{what} is no plain YAML: {told}.", "Write keys, values and lists only."
        ) from error
