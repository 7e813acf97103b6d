"""What all tests share: hypothesis profiles and the folder of project data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test asks a model hub, but those that bring one of their own.
os.environ["HF_HUB_OFFLINE"] = "1"

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]

# `ci` is the one that `make test` runs: the same examples every time. `default` looks further.
settings.register_profile("ci", max_examples=25, deadline=None, derandomize=True, suppress_health_check=_SLOW)
settings.register_profile("default", max_examples=200, deadline=None, suppress_health_check=_SLOW)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def eoaug_data() -> Path:
    """The project's data: validation cubes and STAC schemas. Not part of the repository."""
    beside = Path(__file__).parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("EOAUG_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no project data at {folder}; set EOAUG_DATA to the folder")
    return folder
