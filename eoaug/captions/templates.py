"""Templates of prompts: text with slots, conditions and a few filters. They come with policies from others, and run no code.

jinja2's sandbox keeps a template from reaching Python, but not from filling memory; so loops, calls, arithmetic and attributes
are refused before a template is compiled.
"""

from __future__ import annotations

from functools import cache
from typing import Any

__all__ = ["compiled_template"]

_FILTERS = ("capitalize", "default", "join", "lower", "replace", "round", "title", "trim", "upper")
_NODES = (
    "Template", "Output", "TemplateData", "Name", "Const", "Filter", "Keyword", "Test", "If", "CondExpr", "Compare", "Operand",
    "And", "Or", "Not", "Getitem", "Concat", "Tuple", "List",
)  # fmt: skip
_TESTS = ("defined", "undefined", "none", "string", "number", "in", "eq", "ne", "lt", "le", "gt", "ge")
_MOST_CHARACTERS = 4096


@cache
def compiled_template(text: str) -> Any:
    """Return a template of jinja2 that can only be filled.

    Parameters
    ----------
    text
        At most 4096 characters.

    Raises
    ------
    jinja2.TemplateError
        It is broken, or does something else than to fill slots.
    """
    from jinja2 import StrictUndefined, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(text) > _MOST_CHARACTERS:
        raise SecurityError(f"it has {len(text)} characters, more than {_MOST_CHARACTERS}")
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, optimized=False)
    tree = environment.parse(text)
    for node in tree.find_all(nodes.Node):
        name = type(node).__name__
        if name not in _NODES:
            raise SecurityError(f"{name} is not allowed, only slots, conditions and filters")
        if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
            raise SecurityError(f"the filter {node.name!r} is not allowed, only {', '.join(_FILTERS)}")
        if isinstance(node, nodes.Test) and node.name not in _TESTS:
            raise SecurityError(f"the test {node.name!r} is not allowed")
        if isinstance(node, nodes.Getitem) and not isinstance(node.arg, nodes.Const):
            raise SecurityError("an index that is no constant is not allowed")
    environment.globals.clear()
    return environment.from_string(text)
