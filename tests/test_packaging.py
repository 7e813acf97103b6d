"""What is packaged: recipe, container file, workflow and version agree with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import eoaug
from eoaug import errors

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
RECIPE = yaml.safe_load((ROOT / "packaging/conda/recipe.yaml").read_text("utf-8"))


def requirements(texts: list[str]) -> dict[str, str]:
    """Lower bounds by name."""
    parts = (re.fullmatch(r"([\w.-]+)(?:\[\w+\])?\s*(.*)", text) for text in texts)
    return {part[1].lower(): part[2] for part in parts if part}


def test_the_recipe_requires_what_the_project_requires() -> None:
    wanted = requirements(PROJECT["project"]["dependencies"])
    wanted["dask-core"] = wanted.pop("dask")
    assert requirements(RECIPE["requirements"]["run"]) == wanted | {
        "python": PROJECT["project"]["requires-python"]
    }


def test_every_place_names_the_same_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert RECIPE["context"]["version"] == citation["version"] == eoaug.__version__


@pytest.mark.parametrize("module", sorted(errors._EXTRAS))
def test_every_extra_that_a_message_names_installs_the_package(module: str) -> None:
    package = module.replace("_", "-")
    assert package in requirements(EXTRAS[errors._EXTRAS[module]]), module


def test_networks_are_an_extra() -> None:
    assert "torch" not in requirements(PROJECT["project"]["dependencies"])
    assert all("torch" in requirements(EXTRAS[name]) for name in ("torch", "torchgeo", "diffusion"))


@pytest.mark.parametrize(
    "file", ["README.md", "packaging/Containerfile", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_extras_that_pages_name_exist(file: str) -> None:
    path = ROOT / file if (ROOT / file).exists() else ROOT / "docs" / file
    for names in re.findall(r"(?:eoaug|'\.|\"\.)\[([a-z0-9,]+)\]", path.read_text("utf-8")):
        assert set(names.split(",")) <= set(EXTRAS), names


def test_the_release_tries_what_it_publishes() -> None:
    workflow = (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    for step in ("make packages", "make docs", "cyclonedx-py", "pypa/gh-action-pypi-publish"):
        assert step in workflow, step
