"""corrupt: a cube with a physical defect of a given severity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.corruptions.image_work import ImageWork
from eoaug.corruptions.kinds import KINDS, parameters_of
from eoaug.corruptions.losses import check_losses, lost_names
from eoaug.corruptions.request import CorruptionRequest
from eoaug.corruptions.results import moved_cube, same_grid_cube
from eoaug.corruptions.sunlight import sun_of_dates
from eoaug.corruptions.units import band_of_cube
from eoaug.cube import provenance
from eoaug.cube.dimensions import spatial_dims
from eoaug.cube.grid_mapping import geobox_from_coords
from eoaug.cube.model import Cube
from eoaug.cube.provenance import ALTERED, Provenance, software
from eoaug.cube.read import read_cube
from eoaug.cube.roles import label_names
from eoaug.cube.synthetic import SYNTHETIC, SyntheticShare
from eoaug.cube.units import check_cube_units
from eoaug.engine.identity import content_of, version
from eoaug.engine.values import Chunking
from eoaug.errors import BandError, EoaugError, ParameterError, error_context
from eoaug.raster.grid import absolute_origin, as_geobox, gsd_m
from eoaug.raster.tiles import Window
from eoaug.verbs.arguments import chunks_of, seconds_of
from eoaug.verbs.checks import flag, integer
from eoaug.verbs.prepare import refuse_lost_marks
from eoaug.verbs.record import sources_of
from eoaug.verbs.run import over_tree

__all__ = ["corrupt", "corrupted_arrays"]


def corrupt[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
    ds: T,
    kind: str,
    severity: int = 3,
    *,
    seed: int = 0,
    labels: str | Sequence[str] = (),
    like: Any = None,
    pair: bool = False,
    chunks: Any = None,
    **values: Any,
) -> T:
    """Return a cube with a defect of the measurement, drawn at random for a seed.

    Nothing depends on chunks or workers, nor (but for ``missing_bands`` and ``missing_dates``) on which other bands and dates
    there are: noise, gaps and clouds are functions of the absolute pixel, the date and the name of the band. A lazy cube gives a lazy result. A higher severity with the same
    seed makes the same defect worse.

    Parameters
    ----------
    ds
        The cube: a Dataset, a DataArray or a DataTree, in reflectance, decibels or kelvins as declared. Classes, masks,
        angles and terrain are never changed but by the kinds that move pixels.
    kind
        Noise and radiometry: ``gaussian_noise``, ``salt_and_pepper``, ``speckle``, ``thermal_noise``, ``border_noise``,
        ``brightness_contrast``, ``saturation``, ``bit_depth``, ``compression``. Sharpness and geometry of the sensor:
        ``gaussian_blur``, ``motion_blur``, ``coregistration``. Atmosphere: ``clouds``, ``haze``. Lost data:
        ``data_gaps``, ``missing_bands``, ``missing_dates``. Moved pixels: ``rotation``, ``scale``, ``translation``.
    severity
        1 to 5; what each means is in `eoaug.corruptions.kinds.KINDS`, by parameter.
    seed
        Random seed.
    labels
        Names of variables that are labels; those with ``flag_values`` or such a name are known without.
    like
        For ``clouds``: the grid on which the cover is exact, a GeoBox or a cube. Cubes of the same place and day that are
        given the same grid and seed show the same clouds, each with the mean opacity of its own pixels. Default: the cube's
        own grid, of a tree the finest.
    pair
        True adds every band as it was, as ``<band>_clear``; for kinds that keep the grid, of a Dataset.
    chunks
        As for the verbs: chunk sizes of a lazy result.
    **values
        Physical parameters in place of those of the severity, e.g. ``cover=0.25``, ``snr=40``, ``sun_zenith_deg=50``; see
        `eoaug.corruptions.kinds.KINDS`.

    Returns
    -------
    An object of the type of ``ds``, of the same grid, dates, types and names. A corrupted number is no measurement:
    ``synthetic`` is 2 (derived from measurements by a rule) where a number of any band differs from the given one, 0 where
    all of them are as they were, bit for bit, and 255 where no band has data. What was generated before stays 1. The
    provenance record has the operation ``corrupt``, the kind as generator, and all parameters; the bands of the result are
    ``transferred``. ``clouds`` add ``added_cloud_mask`` (0 clear, 1 cloud, 2 cloud shadow) and ``added_cloud_opacity``.

    The kinds that move pixels give image, labels and all other layers on a moved grid (rotated, finer or shifted), so that
    everything stays where it is on the ground: bands by cubic convolution, other layers by the nearest pixel, with missing
    values or the label's nodata (255 where it has none) beyond the cube.

    Raises
    ------
    EoaugError
        An argument that cannot be used, a cube without a band that the kind applies to, or missing pixels in a type without
        a number for them.

    Notes
    -----
    A window of the cube gives the same pixels as the whole, but for a margin: none for noise, gaps, haze and radiometry; the
    reach of the kernel for blur and coregistration; a tile of 256 pixels for compression. Four kinds depend on the whole
    extent: the level of clouds is that of exactly the asked cover, rotation and scale have the cube's centre, and border noise
    lies at its edge.
    """
    with error_context("corrupt"):
        own = parameters_of(kind, severity, values)
        named = label_names(labels)
        how = {"seed": integer("seed", seed, 0, 2**63 - 1), "pair": flag("pair", pair), "chunks": chunks}
        given = {"kind": kind, "severity": int(severity)}
        if isinstance(ds, xr.DataTree):
            finest = like if like is not None or kind != "clouds" else _finest(ds)
            return over_tree(lambda node: _corrupted(node, given, own, named, finest, how), ds)
        result: T = _corrupted(ds, given, own, named, like, how)
    return result


def _corrupted(
    ds: Any,
    given: Mapping[str, Any],
    own: Mapping[str, Any],
    labels: Sequence[str],
    like: Any,
    how: Mapping[str, Any],
) -> Any:
    cube = read_cube(ds, labels)
    check_cube_units(cube)
    refuse_lost_marks(cube)
    request = _request(cube, given["kind"], own, like, how["seed"])
    moving = request.corruption.group == "moving"
    if how["pair"] and (moving or cube.form != "dataset"):
        raise ParameterError(
            "pair=True needs a Dataset and a corruption that keeps the grid",
            "give ds.to_dataset(dim='band'), or keep the input, which is the other half of the pair",
        )
    parameters = _recorded(request, given, labels)
    chunking = Chunking(
        lengths=chunks_of(
            how["chunks"], cube, (len(request.times), *cube.shape_yx), factor=1, stride=64, copies=1
        ),
        batch_tiles=1,
    )
    token = _token(request, parameters, cube)
    lazy = cube.lazy or how["chunks"] is not None
    if moving:
        result = moved_cube(cube, request, chunking, token, lazy=lazy)
    else:
        work = ImageWork(request, chunking, token)
        result = same_grid_cube(cube, work, lazy=lazy, pair=how["pair"])
    return provenance.stamp(result, _record(cube, request, parameters, token, result, lazy=lazy))


def corrupted_arrays(
    cube: Cube, kind: str, severity: int = 3, *, seed: int = 0, **values: Any
) -> dict[str, NDArray[Any]]:
    """Return the arrays that `corrupt` gives a cube in memory, without the object and its record; for data loaders.

    Parameters
    ----------
    cube
        The cube, in memory.
    kind, severity, seed, **values
        As for `corrupt`; a kind that keeps the grid.

    Returns
    -------
    Bands and marks by name, shape (T, Y, X), in stored numbers; clouds come with their mask and opacity.
    """
    request = _request(cube, kind, parameters_of(kind, severity, values), None, seed)
    check_cube_units(cube)
    refuse_lost_marks(cube)
    height, width = cube.shape_yx
    whole = Chunking(lengths=((len(request.times),), (height,), (width,)), batch_tiles=1)
    return ImageWork(request, whole, "").run((0, 0, 0), [np.asarray(band.data) for band in cube.bands])


def _request(cube: Cube, kind: str, own: Mapping[str, Any], like: Any, seed: int) -> CorruptionRequest:
    height, width = cube.shape_yx
    top, left = absolute_origin(cube.geobox.affine) if cube.georeferenced else (0, 0)
    times = (0,) if cube.times is None else tuple(seconds_of(cube.times).tolist())
    reference = cube.geobox if like is None else as_geobox(like)
    request = CorruptionRequest(
        kind=kind,
        values=dict(own),
        seed=seed,
        bands=tuple(map(band_of_cube, cube.bands)),
        times=times,
        extent=Window(0, 0, height, width).shift(top, left),
        geobox=cube.geobox,
        like=reference,
        sun=sun_of_dates(cube, own, reference) if kind == "clouds" else (),
    )
    if not any(request.affected):
        kinds = " and ".join({"decibel": "SAR in dB", "kelvin": "thermal bands"}.get(q, "reflectances")
                             for q in KINDS[kind].quantities)  # fmt: skip
        raise BandError(
            f"{kind!r} changes {kinds} only; the bands are {', '.join(band.name for band in request.bands)}",
            f"choose another kind, e.g. {'clouds' if 'reflectance' not in KINDS[kind].quantities else 'speckle'!r}",
        )
    check_losses(request)
    return request


def _recorded(request: CorruptionRequest, given: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """Return what the provenance record says of the request: JSON values."""
    recorded = {**given, **request.values}
    if request.sun:
        recorded["sun_zenith_deg"] = [round(zenith, 3) for zenith, _ in request.sun]
        recorded["sun_azimuth_deg"] = [round(azimuth, 3) for _, azimuth in request.sun]
    if request.like != request.geobox:
        recorded["like"] = [*tuple(request.like.affine)[:6], *map(int, request.like.shape.yx)]
    lost = lost_names(request)
    if lost:
        recorded["lost"] = [name if isinstance(name, str) else str(np.datetime64(name, "s")) for name in lost]
    return recorded | ({"labels": list(labels)} if labels else {})


def _token(request: CorruptionRequest, parameters: Mapping[str, Any], cube: Cube) -> str:
    """Return the hash of everything that decides the pixels."""
    decisive = {
        "version": version(),
        "parameters": parameters,
        "seed": request.seed,
        "bands": [[b.name, *b.scaling.numbers, b.dtype, b.nodata] for b in request.bands],
        "grid": [list(request.geobox.affine)[:6], list(request.geobox.shape.yx), str(request.geobox.crs)],
        "times": list(request.times),
        "inputs": content_of(band.data for band in cube.bands),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()


def _record(
    cube: Cube,
    request: CorruptionRequest,
    parameters: Mapping[str, Any],
    token: str,
    result: Any,
    *,
    lazy: bool,
) -> Provenance:
    share = None
    if not lazy:
        count = SyntheticShare()
        count.add(np.asarray(result[SYNTHETIC].values))
        share = count.share
    kept = {str(name): "observed" for name in getattr(result, "data_vars", ()) if name != SYNTHETIC}
    bands = {
        band.name: "transferred" if affected else "observed"
        for band, affected in zip(request.bands, request.affected, strict=True)
    }
    return Provenance(
        operation="corrupt",
        generator=request.kind,
        bands={**kept, **bands},
        seed=request.seed,
        parameters=dict(parameters),
        token=token,
        sources=tuple(sources_of(cube)),
        digital_source_type=ALTERED,
        software={**software(torch=False), **_codec(request.kind)},
        synthetic_fraction=share,
    )


def _codec(kind: str) -> dict[str, str]:
    """Return the version of the library with GDAL and OpenJPEG, on which compressed bytes depend."""
    return {"rasterio": metadata.version("rasterio")} if kind == "compression" else {}


def _finest(tree: xr.DataTree) -> Any:
    """Return the finest grid of a tree; None if its grids have several reference systems."""
    grids = []
    for node in tree.subtree:
        dataset = node.to_dataset(inherit=True)
        try:
            grids.append(geobox_from_coords(dataset, *spatial_dims(dataset))[0])
        except EoaugError:
            continue  # a node without pixels
    one_system = len({str(grid.crs) for grid in grids}) == 1 and grids[0].crs is not None
    return min(grids, key=gsd_m) if one_system else None
