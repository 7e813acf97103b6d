"""A cube in the form that files need: a Dataset with dates, grid, stored types and provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from eoaug.cube.dimensions import band_dim, dates_of, scalar_time, time_dim
from eoaug.cube.indexes import without_indexes
from eoaug.cube.provenance import RECORD_ATTRS, Provenance, foreign_bands, marked_synthetic, of
from eoaug.cube.roles import label_variables
from eoaug.cube.stacks import name_of_single, split_bands
from eoaug.cube.synthetic import ATTRIBUTES, SYNTHETIC, codes_of, lost_marks, why_untrusted
from eoaug.errors import EoaugError, ParameterError, TargetError, TimeError, error_context
from eoaug.formats.georeference import geobox_of
from eoaug.formats.packing import Stored, store_form
from eoaug.quicklook import Thumbnail
from eoaug.raster.variables import holds_classes
from eoaug.stac.catalog import MADE_BY

__all__ = ["WritableCube"]


# -------------------------------------------------------------------------------------------- the cube


@dataclass(frozen=True)
class WritableCube:
    """The cube to write, in one form for every kind of input."""

    ds: xr.Dataset
    """Variables over (time, y, x) or (member, time, y, x), all of them over the same dimensions."""
    geobox: GeoBox
    yx: tuple[str, str]
    forms: Mapping[str, Stored]
    prov: Provenance | None
    labels: frozenset[str] = frozenset()
    """Variables that are labels."""

    @classmethod
    def of(cls, given: xr.Dataset | xr.DataArray) -> WritableCube:
        """Check a cube and convert it."""
        if not isinstance(given, xr.Dataset | xr.DataArray):
            raise ParameterError(
                f"cannot write a {type(given).__name__}",
                "give a Dataset, a DataArray or a DataTree",
            )
        ds = _as_dataset(given)
        # Indexes may hold the only reference system, or the only transform.
        geobox, y, x = geobox_of(ds if isinstance(given, xr.Dataset) else given, attempt="writing a catalog")
        ds = without_indexes(ds)
        with error_context("writing a catalog"):
            ds = _with_time(ds, (y, x))
        prov = of(ds)
        if prov is None and (marked_synthetic(ds) or SYNTHETIC in ds.variables):
            raise TargetError(
                f"the cube has a variable {SYNTHETIC!r} or a synthetic flag, but its provenance is lost",
                "keep the attributes of the result, e.g. xr.set_options(keep_attrs=True), or give them back with the "
                "mask: ds.assign_attrs(result.attrs).assign(synthetic=result.synthetic)",
            )
        if SYNTHETIC in ds.coords:
            ds = ds.reset_coords(SYNTHETIC)
        if prov is not None:
            _refuse_lost_marks(ds, prov, geobox)
        members = ("member",) if "member" in ds.dims else ()
        dims = (*members, "time", y, x)
        spatial = {name: var for name, var in ds.data_vars.items() if {y, x} <= set(var.dims)}
        if not any(name != SYNTHETIC for name in spatial):
            raise TargetError(
                f"there is no variable over {y!r} and {x!r} among {list(map(str, ds.variables))}",
                "give a cube with a variable per band",
            )
        for name, var in spatial.items():
            others = [str(dim) for dim in var.dims if dim not in dims]
            if others:
                way = f"select or split along it, e.g. ds.isel({others[0]}=0)"
                if band_dim(others[:1]):
                    way = f"give the array alone, ds[{name!r}], or ds[{name!r}].to_dataset(dim={others[0]!r})"
                raise TargetError(
                    f"variable {name!r} has the dimension {others[0]!r}, which files cannot hold", way
                )
        shape = {dim: ds.sizes[dim] for dim in dims}
        variables = {}
        for name, var in spatial.items():
            missing = {dim: shape[dim] for dim in dims if dim not in var.dims}
            wide = var.expand_dims(missing).transpose(*dims) if missing else var.transpose(*dims)
            wide.encoding = var.encoding
            variables[str(name)] = wide
        if prov is not None and variables[SYNTHETIC].dtype != np.uint8:
            variables[SYNTHETIC] = _coded(variables)
        kept = [name for name in ds.coords if set(ds.coords[name].dims) <= set(dims)]
        whole = xr.Dataset(variables, coords={name: ds.coords[name] for name in kept}, attrs=ds.attrs)
        forms = {name: store_form(var) for name, var in whole.data_vars.items() if name is not None}
        labels = frozenset(label_variables(whole))
        return cls(whole, geobox, (y, x), {str(k): v for k, v in forms.items()}, prov, labels)

    @property
    def source_collection(self) -> str:
        """Id of the collection that the data came from; empty if unknown or several."""
        name = str(self.ds.attrs.get("stac_collection", ""))
        return "" if ";" in name else name

    def holds_generated(self, name: str) -> bool:
        """Whether a variable may hold generated pixels: labels and observed bands are measured."""
        if self.prov is None:
            return False
        return self.prov.bands.get(name, "observed" if name in self.labels else "generated") != "observed"

    @property
    def about(self) -> str:
        """Description of a collection made for it."""
        text = f"Written by eoaug from {self.source_collection}." if self.source_collection else MADE_BY
        if self.prov is not None:
            text += " Holds synthetic pixels: see the eoaug: fields and the synthetic-mask assets."
        return text

    @property
    def times(self) -> list[datetime]:
        """The dates in UTC."""
        values = self.ds["time"].values.astype("datetime64[us]").tolist()
        return [value.replace(tzinfo=UTC) for value in values]

    @property
    def members(self) -> list[int] | None:
        """Numbers of the ensemble members; None without a ``member`` dimension."""
        if "member" not in self.ds.dims:
            return None
        numbers = self.ds["member"].values
        return [int(n) for n in numbers] if numbers.dtype.kind in "iu" else list(range(len(numbers)))

    def thumbnail(self) -> Thumbnail | None:
        """Return an empty picture of one date and member; None for a cube that no picture can show."""
        try:
            return Thumbnail(
                self.ds.isel({"time": [0], **({"member": 0} if "member" in self.ds.dims else {})})
            )
        except EoaugError:
            return None

    def end(self, name: str, index: int) -> datetime:
        """Return ``start_datetime`` or ``end_datetime`` of a date; the date itself if it is an instant."""
        text = self.along(name, index)
        return self.times[index] if text is None else datetime.fromisoformat(str(text))

    def along(self, name: str, index: int) -> Any:
        """Return a coordinate's value at a date; None if absent, empty or NaN."""
        if name not in self.ds.coords:
            return None
        coord = self.ds.coords[name]
        value = coord.values[index] if coord.dims == ("time",) else coord.values if coord.ndim == 0 else None
        if value is None:
            return None
        value = np.asarray(value).item()
        if isinstance(value, float) and math.isnan(value):
            return None
        return None if value == "" else value


def _refuse_lost_marks(ds: xr.Dataset, prov: Provenance, geobox: GeoBox) -> None:
    """Refuse a cube whose marks may miss a generated pixel."""
    if SYNTHETIC not in ds.variables:
        raise TargetError(*lost_marks())
    foreign = foreign_bands(ds, prov)
    if foreign:
        raise TargetError(
            f"band {foreign[0]!r} comes from another result than the mask {SYNTHETIC!r} and the provenance of the cube",
            "write the results one by one, each with its own mask",
        )
    refusal = why_untrusted(ds[SYNTHETIC], geobox)
    if refusal is not None:
        raise TargetError(*refusal)


def _coded(variables: Mapping[str, xr.DataArray]) -> xr.DataArray:
    """Return a trusted mask of another type as codes."""
    marks, missing = variables[SYNTHETIC], xr.zeros_like(variables[SYNTHETIC], dtype=bool)
    if marks.dtype.kind == "f":
        bands = [var for name, var in variables.items() if not holds_classes(name, var.attrs)]
        missing = xr.concat([_missing(var) for var in bands], "band").all("band").transpose(*marks.dims)
    coded: xr.DataArray = xr.apply_ufunc(
        codes_of, marks, missing, dask="parallelized", output_dtypes=[np.uint8], keep_attrs=False
    )
    return coded.assign_attrs(ATTRIBUTES)


def _missing(var: xr.DataArray) -> xr.DataArray:
    nodata = next(
        (var.attrs[key] for key in ("_FillValue", "nodata") if var.attrs.get(key) is not None), None
    )
    return var.isnull() if nodata is None else var.isnull() | (var == nodata)


def _as_dataset(given: xr.Dataset | xr.DataArray) -> xr.Dataset:
    if isinstance(given, xr.Dataset):
        return given
    stack = split_bands(given)
    if stack is not None:
        ds = stack.dataset
        for var in ds.data_vars.values():  # no record, no list over bands
            whole = {*RECORD_ATTRS, "history"}
            var.attrs = {
                k: v for k, v in var.attrs.items() if k not in whole and not isinstance(v, list | tuple)
            }
        return ds
    name = name_of_single(given)
    return given.to_dataset(name="data" if name == "values" else name).assign_attrs(given.attrs)


def _with_time(ds: xr.Dataset, yx: tuple[str, str]) -> xr.Dataset:
    """Return the cube with its dates along the dimension ``time``."""
    dims = dict.fromkeys(str(d) for v in ds.data_vars.values() if set(yx) <= set(v.dims) for d in v.dims)
    name = time_dim([d for d in dims if d not in yx], ds.coords)
    name = name or scalar_time(ds.coords)
    if name is None or name not in ds.coords:
        where = f"along {name!r}" if name else "and no time dimension"
        example = "np.datetime64('2018-05-04')" if name is None else f"({name!r}, pandas.to_datetime([...]))"
        raise TimeError(
            f"the cube has no dates {where}, and a STAC item needs one",
            f"assign them, e.g. ds.assign_coords({name or 'time'}={example})",
        )
    dates = dates_of(ds[name], name)
    if ds[name].dtype.kind != "M":
        ds = ds.assign_coords({name: ds[name].variable.copy(data=dates.reshape(ds[name].shape))})
    if name != "time":
        if "time" in ds.coords and ds.coords["time"].ndim:
            raise TimeError(
                f"the cube has dates along {name!r} and other ones in the coordinate 'time'",
                "drop one of them: ds.drop_vars('time')",
            )
        ds = ds.drop_vars("time", errors="ignore").rename({name: "time"})
    if ds["time"].ndim == 0:
        ds = ds.expand_dims("time")
    if ds["time"].size == 0:
        raise TimeError("the cube has no date", "select at least one")
    return ds
