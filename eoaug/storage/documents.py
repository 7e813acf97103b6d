"""YAML of plain values, within limits."""

from __future__ import annotations

from typing import Any

from eoaug.errors import ParameterError

__all__ = ["load_yaml"]


def load_yaml(text: str, *, what: str) -> Any:
    """Read YAML that contains plain values only: no objects, no aliases, no duplicate keys.

    Parameters
    ----------
    text
        At most 2**20 characters.
    what
        Which document, for the message.

    Raises
    ------
    ParameterError
        With the line of the mistake.
    """
    import yaml

    class Plain(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                raise yaml.YAMLError("aliases are not allowed")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            duplicates = [key for key in keys if keys.count(key) > 1]
            if duplicates:
                raise yaml.YAMLError(f"duplicate key {duplicates[0]!r}")
            return super().construct_mapping(node, deep)

    if len(text) > 2**20:
        raise ParameterError(f"{what} has {len(text)} characters of YAML", "keep it below a million")
    try:
        return yaml.load(text, Plain)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        message = " ".join(str(error).split())
        raise ParameterError(
            f"{what} is not plain YAML: {message}", "write keys, values and lists only"
        ) from error
