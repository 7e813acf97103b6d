"""The mask ``"omnicloudmask"``: clouds and their shadows by the networks of the package of that name.

Wright et al. 2025 (doi:10.1016/j.rse.2025.114694): red, green and near infrared at 10 to 50 m. The package
fetches weights when it lacks them; eoaug never does, and refuses instead.
"""

from __future__ import annotations

import csv
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eoaug.cube.model import Cube, CubeBand
from eoaug.errors import BandError, GeneratorError, GridError

__all__ = ["NAME", "model_mask"]

NAME = "omnicloudmask"
_LEAST_PX = 32
_LEAST_BYTES = 1024 * 1024
"""The package takes smaller weight files for broken downloads and fetches them again."""


def model_mask(cube: Cube, mask: str) -> Any:
    """Return shape (T, Y, X) bool, NumPy or dask: True under thick and thin cloud and in cloud shadow.

    A date is one image: the result does not depend on chunks.

    Parameters
    ----------
    cube
        With the bands red, green and nir (or nir08).
    mask
        ``"omnicloudmask"`` for weights in the package's own folder, or ``"omnicloudmask:FOLDER"``.

    Raises
    ------
    GeneratorError
        The package or its weights are missing.
    BandError
        A band is missing.
    GridError
        An image smaller than the networks take.
    """
    bands = [_band(cube, "red"), _band(cube, "green"), _band(cube, "nir", "nir08")]
    if min(cube.shape_yx) < _LEAST_PX:
        raise GridError(
            f"mask={mask!r} needs images of {_LEAST_PX} px or more, the cube has {cube.shape_yx[0]} x {cube.shape_yx[1]}",
            "give a larger extent, or another mask",
        )
    folder = _weights(mask)
    predict = partial(_predict, bands=tuple((band.scaling, band.nodata) for band in bands), folder=folder)
    images = [band.data for band in bands]
    if not any(hasattr(image, "dask") for image in images):
        dates = zip(*(np.asarray(image) for image in images), strict=True)
        return np.concatenate([predict(*(image[None] for image in date)) for date in dates])
    lazy = next(image for image in images if hasattr(image, "dask"))
    whole = [image.rechunk({0: 1, 1: -1, 2: -1}) if hasattr(image, "dask") else image for image in images]
    first = whole[0] if hasattr(whole[0], "dask") else lazy
    return first.map_blocks(predict, *whole[1:], dtype=bool, meta=np.empty((0, 0, 0), bool))


def _band(cube: Cube, *names: str) -> CubeBand:
    for name in names:
        for band in cube.bands:
            if band.common_name == name:
                return band
    have = ", ".join(band.name for band in cube.bands)
    raise BandError(
        f"mask='{NAME}' needs the bands red, green and nir, and {names[0]} is not among {have}",
        "open it with the bands, or give another mask",
    )


def _weights(mask: str) -> str:
    """Return the folder of the weights, checked: the package would fetch what is missing."""
    if find_spec(NAME) is None:
        raise GeneratorError(
            f"mask={mask!r} needs the package {NAME}, which is not installed",
            "run: pip install 'eoaug[omnicloudmask]'",
        )
    from omnicloudmask import download_models

    _, _, named = mask.partition(":")
    folder = Path(named).expanduser() if named else Path(download_models.get_model_data_dir())
    with download_models.model_index_path.open() as file:
        rows = list(csv.DictReader(file))
    newest = float(download_models.get_latest_model_version())
    files = [folder / row["file_name"] for row in rows if float(row["version"]) == newest]
    absent = [path for path in files if not path.is_file() or path.stat().st_size <= _LEAST_BYTES]
    if absent:
        raise GeneratorError(
            f"mask={mask!r}: the weights {absent[0].name} are not in {folder}, and eoaug fetches none",
            'fetch them where there is a network: python -c "from omnicloudmask.download_models import get_models; '
            f"get_models(model_dir='{folder}')\"; or name their folder: mask='{NAME}:FOLDER'",
        )
    return str(folder)


def _predict(*images: NDArray[Any], bands: tuple[Any, ...], folder: str) -> NDArray[np.bool_]:
    """Return shape (1, Y, X) of one date: the classes 1 thick cloud, 2 thin cloud and 3 shadow."""
    from omnicloudmask import predict_from_array

    stack, known = [], np.ones(images[0].shape[1:], bool)
    for image, (scaling, nodata) in zip(images, bands, strict=True):
        stored = np.asarray(image[0])
        values = np.asarray(scaling(stored), np.float32)
        known &= (
            np.isfinite(values)
            if nodata is None or np.isnan(nodata)
            else np.isfinite(values) & (stored != nodata)
        )
        stack.append(values)
    array = np.where(known, np.stack(stack), np.float32(0))
    if not known.any():
        return np.zeros((1, *known.shape), bool)
    classes = predict_from_array(
        array,
        patch_size=min(1000, *known.shape),
        patch_overlap=min(300, min(known.shape) // 2),
        no_data_value=0,
        destination_model_dir=folder,
    )
    return np.asarray((np.asarray(classes).reshape(known.shape) > 0) & known)[None]
