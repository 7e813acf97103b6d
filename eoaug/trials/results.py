"""Where select and gate write."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eoaug.augmentation.training_items import TrainingSet

__all__ = ["results_folder"]


@contextmanager
def results_folder(out: Any, augmented: Any, name: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folder of the results, and whether it is kept.

    Parameters
    ----------
    out
        As the user gave it; None: a folder of the catalog, or a temporary one where that is not local.
    augmented
        The made images: a training set or the address of its catalog.
    name
        Of the folder in the catalog.
    """
    if out is None and (isinstance(augmented, TrainingSet) or "://" in str(augmented)):
        with tempfile.TemporaryDirectory(prefix=f"eoaug-{name}-") as scratch:
            yield Path(scratch), False
        return
    folder = (Path(str(augmented), name) if out is None else Path(out)).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    yield folder, True
