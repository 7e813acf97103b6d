"""change: a pair of images, before and after some regions became another class, with the map of what changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from eoaug.corruptions.results import computed
from eoaug.cube import provenance
from eoaug.cube.model import Cube
from eoaug.cube.provenance import ALTERED, Provenance, software
from eoaug.cube.read import read_cube
from eoaug.cube.synthetic import ATTRIBUTES, GENERATED, MEASURED, SYNTHETIC, SyntheticShare
from eoaug.cube.units import check_cube_units
from eoaug.engine.identity import content_of, version
from eoaug.engine.values import Chunking
from eoaug.errors import ParameterError, TimeError, error_context
from eoaug.pairs.redraw_work import AFTER, CHANGE, REDRAWN, PairBand, RedrawWork
from eoaug.pairs.redraws import Redraw, Wish, chosen_redraws
from eoaug.pairs.regions import given_regions, regions_of
from eoaug.raster.grid import absolute_origin
from eoaug.raster.radiometry import declared_nodata
from eoaug.raster.tiles import Window
from eoaug.raster.variables import LABEL, ROLE
from eoaug.verbs.arguments import chunks_of
from eoaug.verbs.checks import integer, number, unknown
from eoaug.verbs.prepare import refuse_lost_marks
from eoaug.verbs.record import sources_of

__all__ = ["change"]

_NO_CLASS = frozenset(
    {"no_data", "nodata", "unknown", "unlabelled", "unlabeled", "unclassified", "outside", "ignore"}
)
"""Names of codes that are no class of the ground."""
_MAPS: Mapping[str, dict[str, Any]] = {
    CHANGE: {
        "long_name": "what changed between the two dates",
        "flag_values": np.array([0, 1], np.uint8),
        "flag_meanings": "unchanged changed",
        ROLE: LABEL,
    },
    REDRAWN: {
        "long_name": "regions that were redrawn",
        "flag_values": np.array([0, 1, 2], np.uint8),
        "flag_meanings": "untouched changed decoy",
        ROLE: LABEL,
    },
}


def change(
    ds: xr.Dataset,
    *,
    label: str,
    to: str | int | Mapping[Any, Any] | None = None,
    share: float = 0.1,
    decoys: float = 1.0,
    blend_px: int = 2,
    regions: str | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Return a pair of images, before and after some regions became another class, and the map of what changed.

    The idea is that of HySCDG (arXiv 2503.15683), for any cube and any label: regions of the label are redrawn as another
    class, and as many others, the decoys, as the class that they have. A decoy has new pixels and no change, so that
    the signs of drawing do not give the change away. The new pixels of a class are measured pixels of the same class at
    other places of the same image, up to 512 pixels away, moved there unaltered and blended at the edge.

    Parameters
    ----------
    ds
        A Dataset of one date, or without dates, with a label.
    label
        Variable with the classes, of whole numbers; their names are in ``flag_values`` and ``flag_meanings``, if it has them.
        What is not to be a source of pixels, such as clouds, should be nodata in it.
    to
        Class that regions become, by name or number; or a mapping from classes to what they become. Default: for every
        region one of the other classes, by area.
    share
        Share of the regions that change, 0 to 1; fewer where they would meet each other, or where no source is near. The
        numbers that were reached are in the provenance record (``changed``, ``decoys_made``).
    decoys
        Decoys per changed region, 0 to 4. They are regions of the classes that the changed ones become, of similar size and
        surroundings; fewer where there are not so many. With decoys, regions that have no such counterpart do not change.
    blend_px
        Pixels around a redrawn region in which its edge is blended, 0 to 16: the region is dilated by them, and the label
        is not.
    regions
        Variable that numbers the regions from 1 on. Default: connected pixels of a class; where they extend over more than
        96 pixels they are cut into pieces of about 48 pixels. Regions of less than 16 pixels, or less than 3 wide, stay.
    seed
        Random seed.

    Returns
    -------
    Dataset with two dates, before and after: the bands, the label of both, ``synthetic``, and the maps ``change`` (1 where
    the label differs, else 0) and ``redrawn`` (0 untouched, 1 changed, 2 decoy), which are labels too. The second date is
    one day after the first, which only says their order. Outside the redrawn regions and their blended edges the two dates
    are equal, bit for bit. New pixels are marked 2 (derived from measurements by a rule) in ``synthetic``; what came from
    generated pixels stays 1. Lazy bands give a lazy result; the label is read at once, because regions have no bounds.

    Raises
    ------
    EoaugError
        An argument that cannot be used, a cube of several dates, or a label without regions to redraw.

    Notes
    -----
    The result depends on the seed and on the whole extent of the label, not on chunks or workers.

    Examples
    --------
    >>> pair = ds.eoaug.change(label="landcover", to="built-up", share=0.2)  # doctest: +SKIP
    >>> eoaug.write(pair, "pairs", format="zarr")  # doctest: +SKIP
    >>> eoaug.training_set("pairs", "change", task="change")  # doctest: +SKIP
    """
    with error_context("change"):
        if not isinstance(ds, xr.Dataset):
            raise ParameterError(
                f"a {type(ds).__name__} has no place for a label", "give a Dataset: da.to_dataset(dim='band')"
            )
        how = {
            "share": number("share", share, 0.0, 1.0),
            "decoys": number("decoys", decoys, 0.0, 4.0),
            "blend_px": integer("blend_px", blend_px, 0, 16),
            "seed": integer("seed", seed, 0, 2**63 - 1),
        }
        _check_names(ds, label, regions)
        labels = [label, *([regions] if regions else [])]
        cube = read_cube(ds, labels)
        check_cube_units(cube)
        refuse_lost_marks(cube)
        if cube.times is not None and len(cube.times) != 1:
            raise TimeError(
                f"the cube has {len(cube.times)} dates, and a change is drawn on one",
                "select it: ds.isel(time=[0])",
            )
        return _pair(cube, label, to, regions, how)


def _check_names(ds: xr.Dataset, label: Any, regions: Any) -> None:
    for argument, name in (("label", label), ("regions", regions)):
        if name is None and argument == "regions":
            continue
        if name not in ds.data_vars:
            raise unknown(f"variable in {argument}=", str(name), list(map(str, ds.data_vars)))
    for name in (CHANGE, REDRAWN):
        if name in ds.variables:
            raise ParameterError(
                f"the cube has a variable {name!r} already", f"rename it: ds.rename({name}='earlier')"
            )


def _pair(cube: Cube, label: str, to: Any, regions: str | None, how: Mapping[str, Any]) -> xr.Dataset:
    given = _image(cube, label)
    codes = _codes(given, cube.source[label])
    names = _class_names(cube.source[label].attrs)
    origin = absolute_origin(cube.geobox.affine) if cube.georeferenced else (0, 0)
    wish = Wish(
        targets=_targets(to, codes, names),
        share=how["share"],
        decoys=how["decoys"],
        blend_px=how["blend_px"],
        seed=how["seed"],
        origin=origin,
    )
    values = np.where(np.isin(given, codes), given, min(codes) - 1).astype(np.int64)
    found = (
        regions_of(values, codes, origin, wish.seed)
        if regions is None
        else given_regions(values, codes, np.nan_to_num(_image(cube, regions)).astype(np.int64))
    )
    redraws = chosen_redraws(found, values, wish)
    changed = [one for one in redraws if one.changes]
    if wish.share > 0 and not changed:
        raise ParameterError(
            f"none of the {len(found)} regions of {label!r} can become another class (classes {_shown(codes, names)})",
            "give another to=, a larger cube, or regions of at least 3 x 3 pixels",
        )
    parameters = {
        "label": label,
        "to": json.loads(json.dumps(to, default=int))
        if not isinstance(to, Mapping)
        else {str(k): v for k, v in to.items()},
        **{name: how[name] for name in ("share", "decoys", "blend_px")},
        **({"regions": regions} if regions else {}),
        "changed": len(changed),
        "decoys_made": len(redraws) - len(changed),
    }
    return _assembled(cube, label, redraws, parameters, how["seed"])


def _image(cube: Cube, name: str) -> Any:
    """Return a layer without dates in memory, shape (Y, X)."""
    return np.asarray(_flat(cube, name).values)


def _flat(cube: Cube, name: str) -> xr.Variable:
    variable = cube.source[name].variable
    others = [dim for dim in variable.dims if dim not in cube.names_yx]
    if any(variable.sizes[dim] != 1 for dim in others):
        raise ParameterError(
            f"{name!r} has the dimensions {', '.join(map(str, variable.dims))}",
            "select one image of it along the others",
        )
    flat: xr.Variable = variable.isel(dict.fromkeys(others, 0)).transpose(*cube.names_yx)
    return flat


def _codes(given: Any, variable: xr.DataArray) -> tuple[int, ...]:
    """Return the classes that a label has pixels of."""
    finite = given[np.isfinite(given)] if given.dtype.kind == "f" else given
    if given.dtype.kind not in "iufb" or (finite != np.floor(finite)).any():
        raise ParameterError(
            f"{variable.name!r} holds {given.dtype} numbers that are no class codes",
            "name a variable of whole numbers",
        )
    nodata = declared_nodata(
        variable.attrs, variable.dtype, name=str(variable.name), encoding=variable.encoding
    )
    names = _class_names(variable.attrs)
    present = (int(code) for code in np.unique(finite))
    found = tuple(
        code
        for code in present
        if (nodata is None or code != nodata) and names.get(code, "").lower() not in _NO_CLASS
    )
    if len(found) < 2:
        raise ParameterError(
            f"{variable.name!r} has pixels of {len(found)} classes, and a change needs two",
            "give a larger cube",
        )
    return found


def _class_names(attrs: Mapping[str, Any]) -> dict[int, str]:
    meanings = attrs.get("flag_meanings", "")
    words = meanings.split() if isinstance(meanings, str) else [str(word) for word in meanings]
    values = np.ravel(attrs.get("flag_values", ()))
    return {int(value): word for value, word in zip(values, words, strict=False)}


def _targets(to: Any, codes: tuple[int, ...], names: Mapping[int, str]) -> dict[int, tuple[int, ...]]:
    if to is None:
        return {code: tuple(other for other in codes if other != code) for code in codes}
    if isinstance(to, Mapping):
        return {_code(old, codes, names): (_code(new, codes, names),) for old, new in to.items()}
    new = _code(to, codes, names)
    return {code: (new,) for code in codes if code != new}


def _code(given: Any, codes: tuple[int, ...], names: Mapping[int, str]) -> int:
    for code in codes:
        if str(given) in (str(code), names.get(code)):
            return code
    raise ParameterError(
        f"to={given!r} is no class with pixels in the cube, and its pixels are the source of new ones",
        f"use one of {_shown(codes, names)}",
    )


def _shown(codes: tuple[int, ...], names: Mapping[int, str]) -> str:
    return ", ".join(names.get(code, str(code)) for code in codes)


def _assembled(
    cube: Cube, label: str, redraws: list[Redraw], parameters: Mapping[str, Any], seed: int
) -> xr.Dataset:
    flat = _flat(cube, label)
    lengths = chunks_of(None, cube, (1, *cube.shape_yx), factor=1, stride=64, copies=1)
    inputs = [*(band.data for band in cube.bands), flat.data[None]]
    marks = cube.marks
    if marks is not None:
        inputs.append(_codes_of_marks(_flat(cube, SYNTHETIC)).data[None])
    decisive = {
        "version": version(),
        "parameters": parameters,
        "seed": seed,
        "grid": [list(cube.geobox.affine)[:6], list(cube.geobox.shape.yx), str(cube.geobox.crs)],
        "inputs": content_of(inputs),
        "redraws": [
            [one.code, *map(int, (one.window.top, one.window.left)), list(one.shifts)] for one in redraws
        ],
    }
    token = hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()
    work = RedrawWork(
        bands=tuple(PairBand(band.name, str(band.dtype), band.nodata) for band in cube.bands),
        label_dtype=str(flat.dtype),
        redraws=tuple(redraws),
        scene=Window(0, 0, *cube.shape_yx),
        chunking=Chunking(lengths=lengths, batch_tiles=1),
        token=token,
    )
    arrays = computed(work, inputs, lazy=cube.lazy)
    result = _two_dates(cube, label, arrays)
    share = None
    if not cube.lazy:
        count = SyntheticShare()
        count.add(np.asarray(result[SYNTHETIC].values))
        share = count.share
    record = Provenance(
        operation="change",
        generator="transplant",
        bands={str(n): "observed" for n in result.data_vars if n != SYNTHETIC}
        | {band.name: "transferred" for band in cube.bands},
        seed=seed,
        parameters=dict(parameters),
        token=token,
        sources=tuple(sources_of(cube)),
        digital_source_type=ALTERED,
        software=software(torch=False),
        synthetic_fraction=share,
    )
    return provenance.stamp(result, record)


def _codes_of_marks(marks: xr.Variable) -> xr.Variable:
    """Return a mask of an earlier verb as codes; what is no code counts as generated."""
    if marks.dtype == np.uint8:
        return marks
    known = (marks == MEASURED) | (marks == 2) | (marks == 255)
    coded: xr.Variable = xr.where(known, marks, GENERATED).astype(np.uint8)
    return coded


def _two_dates(cube: Cube, label: str, arrays: Mapping[str, Any]) -> xr.Dataset:
    """Return the cube with a second date; layers without a date of their own are as they were."""
    source, yx = cube.source, cube.names_yx
    time = cube.name_time or "time"
    dims = (time, *yx)

    def dated(before: xr.Variable, after: Any) -> xr.Variable:
        after = xr.Variable(dims, after)
        both: xr.Variable = xr.Variable.concat([xr.Variable(dims, before.data[None]), after], time)
        encoding = {
            k: v
            for k, v in before.encoding.items()
            if k not in ("chunksizes", "chunks", "preferred_chunks", "original_shape")
        }
        both.attrs, both.encoding = dict(before.attrs), encoding
        return both

    out: dict[Any, xr.Variable] = {}
    for name, variable in source.data_vars.items():
        if name in arrays and name != SYNTHETIC:
            out[name] = dated(_flat(cube, str(name)), arrays[str(name)])
        elif name == label:
            out[name] = dated(_flat(cube, label), arrays[AFTER])
            out[name].attrs[ROLE] = LABEL
        elif name != SYNTHETIC:
            # A layer of one date, such as angles, holds for both.
            out[name] = variable.variable.isel({time: [0, 0]}) if time in variable.dims else variable.variable
    measured = cube.marks if cube.marks is None else _codes_of_marks(_flat(cube, SYNTHETIC))
    if measured is None:
        measured = xr.Variable(
            yx, xr.where(xr.Variable(yx, arrays[SYNTHETIC][0]) == 255, 255, 0).data.astype(np.uint8)
        )
    marks = dated(measured, arrays[SYNTHETIC])
    marks.attrs = dict(ATTRIBUTES)
    out[SYNTHETIC] = marks
    for name, attrs in _MAPS.items():
        out[name] = xr.Variable(yx, arrays[name][0], attrs)
    coords = {name: _on_both(coord.variable, str(name), time) for name, coord in source.coords.items()}
    return xr.Dataset(out, coords, dict(source.attrs))


def _on_both(coord: xr.Variable, name: str, time: str) -> xr.Variable:
    """Return a coordinate on both dates; the second is a day after the first."""
    if name == time and coord.dtype.kind == "M":
        first = coord.values.reshape(1)
        values = np.concatenate([first, first + np.timedelta64(1, "D")])
        return xr.Variable((time,), values, coord.attrs, coord.encoding)
    return coord.isel({time: [0, 0]}) if time in coord.dims else coord
