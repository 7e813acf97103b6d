"""Tiny checkpoints, each made once per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.later import Later

tiny_checkpoints = Later("tests.tiny_checkpoints")
Make = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function from a maker's name to its folder; do not write into it."""
    made: dict[str, Path] = {}
    root = tmp_path_factory.mktemp("checkpoints")

    def get(name: str, **options: object) -> Path:
        key = "-".join([name, *(f"{k}={v}" for k, v in options.items())])
        if key not in made:
            made[key] = getattr(tiny_checkpoints, name)(root / key, **options)
        return made[key]

    return get
