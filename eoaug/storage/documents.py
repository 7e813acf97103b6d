"""YAML of plain values, within limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eoaug.errors import ParameterError, explain_validation
from eoaug.storage.files import open_plain

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["load_yaml", "read_mapping", "read_settings"]


_YAML_BYTES = 2**22 + 1
"""Most bytes that are read of a file: a character has at most four."""


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
            seen = set()
            for key, _ in node.value:
                name = self.construct_object(key, deep=True)
                if name in seen:  # a key that is no plain value raises TypeError
                    raise yaml.YAMLError(f"duplicate key {name!r}")
                seen.add(name)
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


def read_mapping(
    config: Mapping[str, Any] | str | os.PathLike[str], *, noun: str, remedy: str
) -> tuple[dict[str, Any], str]:
    """Return the keys and values of a YAML file or of a mapping, and its name for messages.

    Parameters
    ----------
    config
        The path of a YAML or JSON file, or a mapping.
    noun
        What it is, such as ``job``.
    remedy
        For a document that has no keys.

    Raises
    ------
    ParameterError
        A file that cannot be read, or a document without keys.
    """
    content: Any = config
    what = f"the {noun}"
    if isinstance(config, str | os.PathLike):
        what = f"{noun} {str(config)!r}"
        try:
            with open_plain(Path(config).expanduser()) as file:
                text = file.read(_YAML_BYTES).decode()
        except (OSError, UnicodeError) as error:
            raise ParameterError(f"{what} cannot be read: {error}", "give a YAML file") from error
        content = load_yaml(text, what=what)
    if not isinstance(content, Mapping):
        raise ParameterError(f"{what} is a {type(content).__name__}, not keys and values", remedy)
    return dict(content), what


def read_settings[M: BaseModel](
    config: M | Mapping[str, Any] | str | os.PathLike[str],
    model: type[M],
    *,
    noun: str,
    remedy: str,
    examples: Mapping[str, str] | None = None,
) -> M:
    """Return validated settings, from a YAML file, a mapping or the settings themselves.

    Parameters
    ----------
    config, noun, remedy
        As for `read_mapping`.
    model
        Class of the settings.
    examples
        By key what may be written for it, for messages.

    Raises
    ------
    ParameterError
        The message names the key, its value, and the nearest known key.
    """
    from pydantic import ValidationError

    if isinstance(config, model):
        return config
    content, what = read_mapping(config, noun=noun, remedy=remedy)  # type: ignore[arg-type]
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ParameterError(*explain_validation(error, model, what, examples or {}, noun="key")) from None
