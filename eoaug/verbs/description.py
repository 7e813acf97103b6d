"""What eoaug sees in a cube: grid, dates, bands and their scale, masks and labels, and what each verb would do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from eoaug.cube import provenance
from eoaug.cube.model import Cube, CubeBand
from eoaug.cube.read import read_cube
from eoaug.cube.roles import quality_variable, roles_of
from eoaug.cube.synthetic import OUTSIDE, SYNTHETIC
from eoaug.display import Rows, html_table, text_table
from eoaug.errors import EoaugError
from eoaug.raster.backscatter import form_of
from eoaug.raster.radiometry import declares_scale, encoded_scaling
from eoaug.verbs.fill_mask import mask_of
from eoaug.verbs.masking import MASK_BUFFER_M

__all__ = ["Description", "described"]

_MOST_DATES = 12
"""Dates whose clear share is listed one by one."""
_MOST_VALUES = 50_000_000
"""Pixels and dates that are counted; a larger cube shows no clear share."""


@dataclass(frozen=True)
class Description:
    """What eoaug sees in an object, as rows of name and text."""

    title: str
    rows: Rows

    def __str__(self) -> str:
        """Return aligned text."""
        return text_table(self.title, self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Return the rows, for JSON."""
        return {"title": self.title, "rows": [list(row) for row in self.rows]}

    def _repr_html_(self) -> str:
        return html_table(self.title, self.rows)


def described(obj: Any) -> Description:
    """Return what eoaug sees in a Dataset, DataArray or DataTree; no lazy pixel is computed, and no generator is loaded.

    An object that the verbs would refuse shows why, and what to do.
    """
    title = f"eoaug on a {type(obj).__name__}"
    if isinstance(obj, xr.DataTree):
        rows: list[tuple[str, str]] = []
        for node in obj.subtree:
            if node.data_vars:
                rows += [("node", node.path), *_rows(node.to_dataset())]
        return Description(title, rows or [("problem", "no node has a variable")])
    return Description(title, _rows(obj))


def _rows(obj: Any) -> list[tuple[str, str]]:
    members = obj.sizes.get("member", 0) if SYNTHETIC in getattr(obj, "data_vars", ()) else 0
    try:
        cube = read_cube(obj.isel(member=0) if members else obj)
    except EoaugError as error:
        return [("problem", error.problem), ("remedy", error.remedy)]
    quality = quality_variable(cube.source, cube.names_yx, [band.name for band in cube.bands])
    roles = roles_of(cube.source, cube.names_yx)
    rows = [("grid", _grid(cube)), ("dates", _dates(cube)), ("bands", _bands(cube))]
    labels = [name for name, role in roles.items() if role == "label"]
    used = {band.name for band in cube.bands} | {SYNTHETIC, *labels} | ({quality} if quality else set())
    errors = [f"{band.name}_std" for band in cube.bands if f"{band.name}_std" in roles]
    used.update(errors)
    others = [f"{name} ({role})" for name, role in roles.items() if name not in used]
    if quality is not None:
        rows.append(("quality band", f"{quality}: says which pixels are cloud"))
    if labels:
        rows.append(("labels", f"{', '.join(labels)}: kept as they are"))
    if others:
        rows.append(("other layers", f"{', '.join(others)}: not used"))
    rows += _clear(cube, quality) if cube.marks is None else []  # of a result, see "generated"
    record = provenance.of(cube.source)
    if record is not None:
        rows.append(("made by", f"{record.operation} with {record.generator}, seed {record.seed}"))
    if errors:
        rows.append(("uncertainty", f"{', '.join(errors)}: expected errors, as one standard deviation"))
    if members:
        rows.append(("members", f"{members}; the first is described here"))
    if cube.marks is not None:
        rows.append(("generated", _generated(cube)))
    rows.append(("verbs", _verbs(cube, quality)))
    return rows


def _grid(cube: Cube) -> str:
    rows, cols = cube.geobox.shape.yx
    if not cube.georeferenced:
        return f"{rows} x {cols} pixels without coordinates"
    crs = cube.geobox.crs
    unit = "" if crs is None else (" degrees" if crs.geographic else " m")
    size = abs(cube.geobox.affine.a) or float(np.hypot(cube.geobox.affine.a, cube.geobox.affine.d))
    code = "no reference system" if crs is None else (f"EPSG:{crs.epsg}" if crs.epsg else str(crs)[:60])
    return f"{rows} x {cols} pixels of {size:.6g}{unit}, {code}"


def _dates(cube: Cube) -> str:
    if cube.times is None:
        return "none: one image"
    days = [str(day)[:10] for day in cube.times]
    return days[0] if len(days) == 1 else f"{len(days)}, {days[0]} to {days[-1]}"


def _bands(cube: Cube) -> str:
    """Return a line per way in which numbers are stored."""
    by_form: dict[str, list[str]] = {}
    for band in cube.bands:
        common = band.common_name
        shown = band.name if common in (None, band.name) else f"{band.name} ({common})"
        by_form.setdefault(_form(band), []).append(shown)
    where = "dask, " if cube.lazy else ""
    return "\n".join(f"{', '.join(names)}: {where}{form}" for form, names in by_form.items())


def _form(band: CubeBand) -> str:
    scaling = band.scaling.stored
    rule = f"value = {scaling.scale:.6g} x stored" + (f" {scaling.offset:+.6g}" if scaling.offset else "")
    if declares_scale(band.attrs):
        rule += ", from the attributes"
    elif encoded_scaling(band.encoding, name=band.name) is not None:
        rule = "physical values, unpacked by xarray"
    elif (scaling.scale, scaling.offset) == (1.0, 0.0):
        rule = "physical values"
    if not band.scaling.everywhere:
        rule += f", {form_of(band.attrs)} of backscatter"
    missing = "" if band.nodata is None or np.isnan(band.nodata) else f", missing: {band.nodata:g}"
    return f"{band.dtype}, {rule}{missing}"


def _clear(cube: Cube, quality: str | None) -> list[tuple[str, str]]:
    """Return the share of pixels that are measured and not cloud, by date; nothing for lazy and very large cubes."""
    first = cube.bands[0].data
    layer = None if quality is None else cube.source[quality].data
    if any(hasattr(array, "dask") for array in (first, layer)) or first.size > _MOST_VALUES:
        return []
    known = np.ones(first.shape, bool)
    for band in cube.bands:
        if band.dtype.kind == "f":
            known &= np.isfinite(band.data)
        if band.nodata is not None and not np.isnan(band.nodata):
            known &= band.data != band.nodata
    name = "measured"
    if quality is not None:
        try:
            known &= ~np.asarray(mask_of(cube, quality)[0], bool)
        except EoaugError as error:
            return [("clear", f"not known: {error.problem}")]
        name = "clear"
    shares = known.mean(axis=(1, 2))
    if cube.times is None or len(shares) == 1:
        return [(name, f"{shares[0]:.0%} of the pixels")]
    if len(shares) <= _MOST_DATES:
        pairs = zip(cube.times, shares, strict=True)
        return [(name, ", ".join(f"{str(day)[:10]} {share:.0%}" for day, share in pairs))]
    low, middle, high = np.quantile(shares, (0, 0.5, 1))
    return [(name, f"{low:.0%} to {high:.0%} of the pixels by date, median {middle:.0%}")]


def _generated(cube: Cube) -> str:
    assert cube.marks is not None
    if hasattr(cube.marks.data, "dask"):
        return "marked in 'synthetic', which is lazy"
    marks = np.asarray(cube.marks.data)
    inside = marks != OUTSIDE
    share = ((marks != 0) & inside).sum() / max(int(inside.sum()), 1)
    return f"{share:.1%} of the pixels, marked in {SYNTHETIC!r}"


def _verbs(cube: Cube, quality: str | None) -> str:
    gaps = "missing pixels" + (
        " that other dates show" if cube.times is not None and len(cube.times) > 1 else ""
    )
    lines = [f".inpaint() fills {gaps}"]
    if quality is not None:
        buffer = f", and {MASK_BUFFER_M:g} m around" if cube.georeferenced else ""
        lines.append(f".inpaint(mask={quality!r}) fills what {quality} calls cloud{buffer}")
    lines.append(".super_resolve(factor=2) gives four pixels for one")
    if cube.times is not None:
        lines.append(".extend(times=[...]) makes new dates")
    lines.append(".synthesize(strength=0.3) makes a variation")
    lines.append(".plan(verb).explain() says what it costs")
    return "\n".join(lines)
