"""The house stands: imports go down, packages have no cycles, each heavy library has its doors."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "eoaug"

FLOORS = {
    "ground": ["errors", "display", "progress", "raster", "metrics"],
    "storage": ["storage"],
    "generators": ["generators"],
    "cube": ["cube"],
    "engine": ["engine"],
    "verbs": ["verbs"],
    "formats": ["formats", "quicklook", "plots", "explore"],
    "corruptions": ["corruptions", "pairs"],
    "stac": ["stac"],
    "jobs": ["jobs"],
    "datasets": ["datasets"],
    "augment": ["captions", "augmentation"],
    "training": ["training", "evaluate", "land_tuning"],
    "exports": ["exports"],
    "torch": ["torch"],
    "trials": ["trials", "selection"],
    "services": ["services"],
    "top": ["testing", "accessor", "cli", "__init__"],
}
"""Bottom first; a module imports from its own floor or from one below."""

LEVEL = {part: level for level, parts in enumerate(FLOORS.values()) for part in parts}

DOORS = {
    "torch": [
        "generators",
        "training",
        "evaluate",
        "captions.models",
        "captions.clip",
        "torch",
        "trials",
        "selection",
    ],
    "torchgeo": ["torch.scenes"],
    "geopandas": ["torch.scenes"],
    "kornia": ["torch.corrupt_tensors"],
    "lightning": ["torch.datamodule"],
    "diffusers": ["generators.checkpoints", "training"],
    "transformers": ["generators.checkpoints", "training", "captions.models", "captions.clip"],
    "peft": ["generators.checkpoints", "training"],
    "dask": ["engine.dask_graph", "formats"],  # the writers walk chunks; nobody else knows dask
    "huggingface_hub": ["generators.checkpoints.hub"],
    "distributed": ["jobs.clusters", "jobs.slurm"],  # whole items go to workers
    "numba": ["generators.interpolation.compiled", "raster.compiled"],
    "rasterio": ["datasets", "formats", "stac", "exports"],
    "stac_geoparquet": ["exports.geoparquet"],
    "rioxarray": ["stac", "cli"],
    "zarr": ["formats", "stac"],
    "icechunk": ["formats.icechunk"],
    "obstore": ["storage"],
    "matplotlib": ["plots"],
    "omnicloudmask": ["verbs.omnicloudmask"],
    "requests": ["storage.http"],
    "dask_jobqueue": ["jobs.slurm"],
    "pystac": ["stac", "jobs"],
    "pystac_client": ["stac"],
    "odc.stac": ["stac"],
    "odc.loader": ["stac"],
    "xarray": [
        *(
            "cube",
            "verbs",
            "corruptions",
            "pairs",
            "formats",
            "quicklook",
            "plots",
            "explore",
            "stac",
            "jobs",
            "datasets",
        ),
        *(
            *FLOORS["augment"],
            *FLOORS["training"],
            "exports",
            "torch",
            *FLOORS["trials"],
            "services",
            *FLOORS["top"],
        ),
    ],
    "typer": ["cli"],
    "hypothesis": ["testing"],
    "pytest": [],
}
"""Where a heavy library may be imported, by the beginning of the module's name."""

NEVER_AT_ONCE = {
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "dask",
    "distributed",
    "hypothesis",
    "numba",
    "rasterio",
    "zarr",
    "icechunk",
    "matplotlib",
    "obstore",
    "omnicloudmask",
}
"""Libraries that only a function may import, except in modules that are themselves imported by functions."""

CLIENTS = ["cli"]
"""Modules that use the package as users do, through its root."""

LATE = [
    *(
        "engine.dask_graph",
        "formats",
        "stac",
        "jobs",
        "training",
        "captions",
        "augmentation",
        "evaluate",
        "exports",
        "torch",
        "trials",
        "selection",
    ),
    *("generators.embedded.networks", "generators.checkpoints"),
    *("generators.interpolation.compiled", "raster.compiled"),
]
"""Modules that the package's root does not import."""


class Import(NamedTuple):
    """One imported name."""

    module: str
    line: int
    at_once: bool
    typing_only: bool


def imports(path: Path, module: str) -> Iterator[Import]:
    """Yield the absolute names that a file imports; ``from a import b`` yields ``a.b``."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    parts = package.split(".")
    # Statements alone are looked at, not their expressions, and not by recursion: this reads all files twice.
    left: list[tuple[ast.AST, bool, bool]] = [(tree(path), True, False)]
    while left:
        node, at_once, typing_only = left.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_once, typing_only)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            source = ".".join(p for p in (base, node.module) if p)
            for alias in node.names:
                yield Import(f"{source}.{alias.name}", node.lineno, at_once, typing_only)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            left += [(child, at_once, True) for child in node.body]
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for name in ("body", "orelse", "finalbody", "handlers", "cases"):
                left += [(child, at_once and not inside, typing_only) for child in getattr(node, name, ())]


def tree(path: Path) -> ast.Module:
    return parsed(path.read_text())


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def begins(name: str, prefixes: list[str]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


def violations(root: Path) -> list[str]:
    """Return every broken rule of a package ``eoaug`` that lies at ``root``."""
    modules = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    found = []
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        floor = LEVEL.get(name.split(".")[0])
        if floor is None:
            found.append(f"{name} stands on no floor")
            continue
        full = "eoaug" if name == "__init__" else f"eoaug.{name}"
        for imported in imports(path, full):
            where = f"{name}:{imported.line} imports {imported.module}"
            if begins(imported.module, ["eoaug"]):
                inner = imported.module.removeprefix("eoaug").lstrip(".")
                # `from a import b`: b is a module, or a name in a.
                target = inner if inner in modules else inner.rpartition(".")[0]
                if target not in modules and begins(name, CLIENTS):
                    continue
                if target not in modules:
                    found.append(f"{where}: the package's root, from inside")
                    continue
                if path.name != "__init__.py" and target == name.rpartition(".")[0]:
                    found.append(f"{where}: its own package's init")
                if LEVEL.get(target.split(".")[0], -1) > floor:
                    found.append(f"{where}: from a floor above")
                if target != name:
                    graph.setdefault(name, set()).add(target)
            elif not imported.typing_only:
                for library, doors in DOORS.items():
                    if begins(imported.module, [library]) and not begins(name, doors):
                        found.append(f"{where}: no door for {library}")
                top = imported.module.split(".")[0]
                if imported.at_once and top in NEVER_AT_ONCE and not begins(name, LATE):
                    found.append(f"{where}: at import time")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append("imports in a circle: " + " <- ".join(error.args[1]))
    return found


def test_the_house_stands():
    assert violations(PACKAGE) == []


SLOW_TO_IMPORT = ["diffusers", "transformers", "peft", "torchmetrics", "torchgeo", "lightning", "kornia"]
"""Seconds each; every process of the test runner would spend them on collecting tests that it never runs."""


def test_tests_import_slow_libraries_at_first_use():
    """A test module holds them, and modules of the package that import them, as `tests.later.Later`."""
    root, at_once = PACKAGE.parent, {}
    for path in (*PACKAGE.rglob("*.py"), *(root / "tests").rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        names = [one.module for one in imports(path, module) if one.at_once and not one.typing_only]
        # `from a import b`: b is a module, or a name in a.
        at_once[module] = {*names, *(name.rpartition(".")[0] for name in names)}
    names_of = {name for names in at_once.values() for name in names}
    reasons = {name for name in names_of if begins(name, SLOW_TO_IMPORT)}
    slow: dict[str, str] = {}
    while found := {
        module: min(names & reasons)
        for module, names in at_once.items()
        if module not in slow and names & reasons
    }:
        slow |= found
        reasons |= found.keys()
    assert "tests.tiny_checkpoints" in slow, "else this finds nothing"
    # The makers of tiny models are themselves imported at first use.
    tests = {m: name for m, name in slow.items() if begins(m, ["tests"]) and not m.startswith("tests.tiny_")}
    assert tests == {}


BROKEN = {
    "a floor above": {"raster/grid.py": "from eoaug.cube.read import Cube"},
    "a floor above, relative": {"generators/base.py": "from ..cube import read"},
    "no door for torch": {"cube/read.py": "def f():\n    import torch.nn"},
    "no door for dask": {"cube/read.py": "import dask.array as da"},
    "no door for rasterio": {"raster/grid.py": "from rasterio.crs import CRS"},
    "no door for pystac": {"cube/read.py": "import pystac"},
    "no door for xarray": {"errors.py": "import xarray"},
    "at import time": {"engine/eager.py": "import dask"},
    "the package's root": {"cube/read.py": "from eoaug import inpaint"},
    "the package's root, whole": {"cube/read.py": "import eoaug"},
    "its own package's init": {"cube/read.py": "from eoaug.cube import something"},
    "in a circle": {
        "cube/read.py": "from eoaug.cube import model",
        "cube/model.py": "from eoaug.cube.read import x",
    },
    "stands on no floor": {"utils.py": ""},
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_house_falls(tmp_path, rule):
    for name in (
        "__init__",
        "raster/grid",
        "errors",
        "cube/__init__",
        "cube/read",
        "engine/eager",
        "generators/base",
    ):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("import numpy as np\n")
    assert violations(tmp_path) == []
    for name, text in BROKEN[rule].items():
        (tmp_path / name).write_text(text)
    assert any(rule.split(",")[0] in line for line in violations(tmp_path)), violations(tmp_path)
