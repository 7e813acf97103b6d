"""eoaug: augment Earth-observation data cubes with diffusion models.

    import eoaug
    cube = eoaug.open_cube(eoaug.sample(), collections=["sentinel-2-l2a"])
    filled = cube.eoaug.inpaint(mask=clouds)
    eoaug.write(filled, "augmented")

Importing registers the accessor ``.eoaug`` on Dataset, DataArray and DataTree. Torch, GDAL and dask are
imported when they are first needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from eoaug import accessor as _accessor
from eoaug.corruptions.corrupt import corrupt
from eoaug.cube.backscatter import backscatter
from eoaug.engine.plan import Plan
from eoaug.errors import EoaugError, missing_package
from eoaug.generators.base import Card, Generator, Request
from eoaug.generators.registry import load
from eoaug.pairs.change import change
from eoaug.plots import show
from eoaug.verbs.extend import extend
from eoaug.verbs.inpaint import inpaint
from eoaug.verbs.planning import plan
from eoaug.verbs.super_resolve import super_resolve
from eoaug.verbs.synthesize import synthesize
from eoaug.verbs.translate import translate

if TYPE_CHECKING:
    from eoaug.augmentation.augment import augment
    from eoaug.augmentation.training_set import training_set
    from eoaug.captions.caption import caption
    from eoaug.exports.export import export
    from eoaug.jobs.runner import run_job
    from eoaug.selection.select import select
    from eoaug.stac.open import open_cube
    from eoaug.stac.publish import write
    from eoaug.stac.sample import sample
    from eoaug.trials.gate import gate

__version__ = "0.2.0"

__all__ = [
    "Card",
    "EoaugError",
    "Generator",
    "Plan",
    "Request",
    "__version__",
    "augment",
    "backscatter",
    "caption",
    "change",
    "corrupt",
    "export",
    "extend",
    "gate",
    "inpaint",
    "load",
    "open_cube",
    "plan",
    "run_job",
    "sample",
    "select",
    "show",
    "super_resolve",
    "synthesize",
    "training_set",
    "translate",
    "write",
]

_LATER = {
    "augment": "eoaug.augmentation.augment",
    "caption": "eoaug.captions.caption",
    "export": "eoaug.exports.export",
    "gate": "eoaug.trials.gate",
    "open_cube": "eoaug.stac.open",
    "run_job": "eoaug.jobs.runner",
    "sample": "eoaug.stac.sample",
    "select": "eoaug.selection.select",
    "training_set": "eoaug.augmentation.training_set",
    "write": "eoaug.stac.publish",
}

del _accessor


def __getattr__(name: str) -> Any:
    # The STAC floor imports GDAL and pystac: half a second that most sessions need later, if at all.
    try:
        if name in _LATER:
            return getattr(importlib.import_module(_LATER[name]), name)
        if name == "torch":  # a package that nothing here imports
            return importlib.import_module("eoaug.torch")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("eoaug"):
            raise
        raise missing_package(f"eoaug.{name}", error) from error
    raise AttributeError(f"module 'eoaug' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
