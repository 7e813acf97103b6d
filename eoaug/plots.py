"""Plots of cubes for notebooks and papers: what was measured, what was generated, and how uncertain it is.

They use xarray's plotting, and need matplotlib, which is imported at the first plot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from eoaug.cube.model import Cube
from eoaug.cube.read import read_cube
from eoaug.cube.synthetic import GENERATED, OUTSIDE, SYNTHETIC
from eoaug.errors import BandError, ParameterError, TimeError, error_context, missing_package

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["compare", "plot_uncertainty", "show"]

_MOST_PANELS = 6
"""Dates or members that are shown, unless the caller chooses."""
_COLUMNS = 3
"""Panels side by side where nothing else decides; a page of a notebook holds no more in a size that shows pixels."""
_EDGE_PX = 1024
"""Of longer edges every n-th pixel is shown."""
_LAZY_EDGE_PX = 8192
"""Edge of the largest lazy cube that a plot computes."""
_INCHES = 2.6
_OUTLINE = "#ff2fd0"

Dates = int | str | np.datetime64 | Sequence[int | str | np.datetime64]
"""Indices or dates."""


def show(
    ds: Any, *, times: Dates | None = None, member: int | None = None, look: str | None = None
) -> Figure:
    """Plot a cube in colour, a panel per date, with an outline around generated pixels.

    Parameters
    ----------
    ds
        Dataset or DataArray, measured or made by a verb. Of lazy cubes, only the dates shown are computed.
    times
        Dates or indices to show. Default: at most six, evenly chosen.
    member
        The member shown. Default: with one date, at most six members side by side; otherwise the first.
    look
        ``"true"``, ``"nir"``, ``"swir"`` or ``"radar"``, as for `eoaug.quicklook.rgb`. Default: the first that the bands
        allow.

    Returns
    -------
    matplotlib.figure.Figure
        Notebooks show it once; scripts save it with ``figure.savefig("cube.png")``.

    Raises
    ------
    EoaugError
        matplotlib is not installed, or the object is no cube that can be shown.

    Examples
    --------
    >>> figure = eoaug.show(cube, times=["2018-05-26", "2018-06-13"])  # doctest: +SKIP
    """
    with error_context("show"):
        panels = _panels(ds, times, member, look)
        return _drawn([panels[k : k + _COLUMNS] for k in range(0, len(panels), _COLUMNS)])


def compare(ds: Any, before: Any, *, times: Dates | None = None, look: str | None = None) -> Figure:
    """Plot a result below the cube that it was made from, with an outline around generated pixels.

    Parameters
    ----------
    ds
        Result of a verb.
    before
        The cube that was given to the verb.
    times
        Dates or indices of the result. Default: at most six dates with generated pixels.
    look
        As for `show`.

    Returns
    -------
    matplotlib.figure.Figure
        The upper row is ``before`` (of one date, the left panel); it has an empty panel for a date that was added.

    Raises
    ------
    EoaugError
        As for `show`.

    Examples
    --------
    >>> filled = cube.eoaug.inpaint(mask="scl")  # doctest: +SKIP
    >>> figure = filled.eoaug.compare(cube)  # doctest: +SKIP
    """
    with error_context("compare"):
        after = _panels(ds, times, None, look, generated=True)
        given = _cube(before)
        above = [
            _panel(before, given, index, look, label="before") if index is not None else None
            for index in (_match(given.times, panel.date) for panel in after)
        ]
        # A single image stands next to the other; of several, each below the other.
        return _drawn([[*above, *after]] if len(after) == 1 else [above, after])


def plot_uncertainty(ds: Any, *, band: str | None = None, times: Dates | None = None) -> Figure:
    """Plot the expected error of one band, a panel per date; measured pixels are white.

    Parameters
    ----------
    ds
        Result of a verb with ``uncertainty=True``, or with several members, whose standard deviation is shown.
    band
        Name of the band. Default: the first that has an expected error.
    times
        As for `show`.

    Returns
    -------
    matplotlib.figure.Figure
        In the units of the band: reflectance, dB or kelvin.

    Raises
    ------
    EoaugError
        matplotlib is not installed, or the result has no uncertainty.

    Examples
    --------
    >>> filled = cube.eoaug.inpaint(mask="scl", uncertainty=True)  # doctest: +SKIP
    >>> figure = filled.eoaug.plot_uncertainty(band="B04")  # doctest: +SKIP
    """
    with error_context("plot_uncertainty"):
        errors = _errors_of(ds, band)
        cube = _cube(ds)
        indices = _indices(cube, times, _marks(ds))
        errors = _thinned(errors, cube)
        if cube.times is not None and len(indices) < len(cube.times):
            errors = errors.isel({cube.name_time: indices})
        pyplot = _pyplot()
        time = str(cube.name_time)
        panels = errors.sizes.get(time, 1)
        names = {"x": cube.names_yx[1], "y": cube.names_yx[0]}
        kind: dict[str, Any] = {**names, "cmap": "viridis", "vmin": 0, "robust": True}
        if panels > 1:
            grid = errors.plot.imshow(
                col=time, col_wrap=min(panels, _COLUMNS), size=_INCHES, aspect=1, **kind
            )
            figure, axes = grid.fig, grid.axs.ravel()[:panels]
            for ax, date in zip(axes, errors[time].values, strict=True):
                ax.set_title(str(date)[:10], fontsize=9)
        else:
            figure, ax = pyplot.subplots(figsize=(1.5 * _INCHES, 1.2 * _INCHES), layout="constrained")
            date = str(cube.times[indices[0]])[:10] if cube.times is not None else ""
            errors.squeeze(drop=True).plot.imshow(ax=ax, **kind)
            ax.set_title(date, fontsize=9)
            axes = [ax]
        for ax in axes:
            _bare(ax)
        return _once(pyplot, figure)


# -- what is shown --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Panel:
    image: xr.DataArray
    """Dimensions (y, x, rgb), uint8, on the coordinates of the cube."""
    generated: xr.DataArray | None
    """Dimensions (y, x), True = generated or transferred."""
    title: str
    date: np.datetime64 | None
    names_yx: tuple[str, str]


def _panels(
    ds: Any, times: Dates | None, member: int | None, look: str | None, *, generated: bool = False
) -> list[_Panel]:
    cube = _cube(ds)
    marks = _marks(ds)
    indices = _indices(cube, times, marks if generated else None)
    members = range(ds.sizes["member"]) if "member" in ds.dims else range(1)
    if member is not None:
        if not 0 <= member < len(members):
            raise ParameterError(f"member={member}: there are {len(members)}", "count from 0")
        chosen = [member]
    else:
        chosen = list(members)[:_MOST_PANELS] if len(indices) == 1 else [0]
    several = len(members) > 1
    return [
        _panel(ds, cube, index, look, member=number, label=f"member {number}" if several else "")
        for index in indices
        for number in chosen
    ]


def _panel(ds: Any, cube: Cube, index: int, look: str | None, *, member: int = 0, label: str = "") -> _Panel:
    from eoaug.quicklook import rgb

    image = rgb(_thinned(ds, cube), index if cube.times is not None else None, look=look, member=member)  # type: ignore[arg-type]
    y, x = cube.names_yx
    marks = _marks(ds)
    generated, share = None, ""
    if marks is not None:
        layer = marks.isel(
            {d: n for d, n in ((cube.name_time, index), ("member", member)) if d in marks.dims}
        )
        layer = _thinned(layer, cube).transpose(y, x).compute()
        generated = (layer != 0) & (layer != OUTSIDE)
        made = "generated" if bool((layer == GENERATED).any()) or not generated.any() else "transferred"
        share = f"{float(generated.mean()):.0%} {made}"
    placed = [name for name in (y, x) if name in cube.source.coords]
    coords = {name: _thinned(cube.source[name], cube).values for name in placed}
    shown = xr.DataArray(image, dims=(y, x, "rgb"), coords=coords)
    date = None if cube.times is None else cube.times[index]
    words = [str(date)[:10] if date is not None else "", label, share]
    return _Panel(shown, generated, "\n".join(word for word in words if word), date, (y, x))


def _cube(ds: Any) -> Cube:
    """Return what eoaug sees in an object, of several members the first; refuse a tree, which has no one grid."""
    if isinstance(ds, xr.DataTree):
        nodes = [node.path for node in ds.subtree if node.data_vars]
        raise ParameterError(
            f"a DataTree of {len(nodes)} cubes has no one grid",
            f"plot node by node, e.g. tree[{(nodes or ['/'])[0]!r}].to_dataset()",
        )
    return read_cube(ds.isel(member=0) if "member" in getattr(ds, "dims", ()) else ds)


def _marks(ds: Any) -> xr.DataArray | None:
    return ds[SYNTHETIC] if isinstance(ds, xr.Dataset) and SYNTHETIC in ds else None


def _indices(cube: Cube, times: Dates | None, marks: xr.DataArray | None) -> list[int]:
    """Return the indices of the dates shown; with marks, only dates with generated pixels, if there are any."""
    count = 1 if cube.times is None else len(cube.times)
    if times is not None:
        asked = [times] if isinstance(times, int | str | np.datetime64) else list(times)
        return [_index(cube.times, one) for one in asked]
    candidates = np.arange(count)
    if marks is not None and cube.name_time in marks.dims and not hasattr(marks.data, "dask"):
        made = ((marks != 0) & (marks != OUTSIDE)).any([d for d in marks.dims if d != cube.name_time]).values
        candidates = np.flatnonzero(made) if made.any() else candidates
    places = np.linspace(0, len(candidates) - 1, min(len(candidates), _MOST_PANELS))
    return [int(candidates[round(place)]) for place in places]


def _index(times: NDArray[np.datetime64] | None, wanted: Any) -> int:
    count = 1 if times is None else len(times)
    if isinstance(wanted, int | np.integer):
        if not -count <= wanted < count:
            raise TimeError(f"times={wanted}: the cube has {count} dates", "count from 0")
        return int(wanted) % count
    index = _match(times, wanted)
    if index is None:
        shown = "none" if times is None else ", ".join(str(t)[:10] for t in times[:5])
        raise TimeError(f"times={str(wanted)!r} is no date of the cube", f"its dates begin with {shown}")
    return index


def _match(times: NDArray[np.datetime64] | None, wanted: Any) -> int | None:
    """Return the index of a date, or None; without dates on either side, the only image."""
    if times is None or wanted is None:
        return 0
    try:
        date = np.datetime64(wanted)
    except ValueError as error:
        raise TimeError(f"times={wanted!r} is not a date", "write it like 2018-05-04") from error
    hits = np.flatnonzero(times.astype(date.dtype) == date)
    return int(hits[0]) if len(hits) else None


def _thinned(obj: Any, cube: Cube) -> Any:
    """Return every n-th pixel, so that a plot of a large scene stays small."""
    rows, cols = cube.shape_yx
    if cube.lazy and max(rows, cols) > _LAZY_EDGE_PX:
        y, x = cube.names_yx
        raise ParameterError(
            f"the cube is lazy and has {rows} x {cols} pixels",
            f"plot a part of it: ds.isel({y}=slice(0, 512), {x}=slice(0, 512))",
        )
    step = -(-max(rows, cols) // _EDGE_PX)
    return (
        obj
        if step == 1
        else obj.isel({name: slice(None, None, step) for name in cube.names_yx if name in obj.dims})
    )


def _errors_of(ds: Any, band: str | None) -> xr.DataArray:
    """Return the expected error in physical units, missing where the pixel was measured."""
    names = [str(name) for name in getattr(ds, "data_vars", ())]
    with_errors = [name for name in names if f"{name}_std" in names]
    spread = isinstance(ds, xr.Dataset) and "member" in ds.dims
    able = with_errors or [n for n in names if spread and n != SYNTHETIC and "member" in ds[n].dims]
    if not able:
        raise BandError(
            "the cube has neither expected errors nor members",
            "make it with uncertainty=True, or with members=8 and steps=4",
        )
    name = band if band is not None else able[0]
    if name not in able:
        raise BandError(f"band={name!r} has no expected error", f"use one of {', '.join(able)}")
    if with_errors:
        errors: xr.DataArray = ds[f"{name}_std"]
        errors = errors.max("member") if "member" in errors.dims else errors
        return errors.where(errors > 0).assign_attrs(long_name=f"expected error of {name}")
    scaling = next(one.scaling for one in read_cube(ds.isel(member=0)).bands if one.name == name)
    spread_of: xr.DataArray = ds[name].astype("float64").std("member") * abs(scaling.scale)
    return spread_of.where(spread_of > 0).assign_attrs(long_name=f"spread of {name} over members")


# -- how it is drawn -------------------------------------------------------------------------------------


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as missing:
        missing.name = "matplotlib"
        raise missing_package("a plot", missing) from missing
    return pyplot


def _drawn(rows: Sequence[Sequence[_Panel | None]]) -> Figure:
    pyplot = _pyplot()
    cols = max(len(row) for row in rows)
    figure, grid = pyplot.subplots(
        len(rows),
        cols,
        squeeze=False,
        layout="constrained",
        figsize=(_INCHES * cols, (_INCHES + 0.5) * len(rows)),
    )
    for row, axes in zip(rows, grid, strict=True):
        for ax in axes[len(row) :]:
            ax.remove()
        for panel, ax in zip(row, axes, strict=False):
            if panel is None:
                ax.text(0.5, 0.5, "no measurement", ha="center", va="center", transform=ax.transAxes)
                ax.set_aspect("equal")
            else:
                _draw(panel, ax)
            _bare(ax)
    return _once(pyplot, figure)


def _draw(panel: _Panel, ax: Any) -> None:
    y, x = panel.names_yx
    plot: Any = panel.image.plot
    # Without coordinates, rows count downwards.
    plot.imshow(
        x=x,
        y=y,
        rgb="rgb",
        ax=ax,
        interpolation="nearest",
        add_labels=False,
        yincrease=y in panel.image.coords,
    )
    made = panel.generated
    if made is not None and made.any() and not made.all():
        places = [panel.image[name].values for name in (x, y)]
        ax.contour(*places, made.values, levels=[0.5], colors=_OUTLINE, linewidths=0.9)
    ax.set_aspect("equal")
    ax.set_title(panel.title, fontsize=9)


def _bare(ax: Any) -> None:
    """Leave out the numbers of a projected grid, which fill a small panel; keep its frame."""
    ax.set(xticks=[], yticks=[], xlabel="", ylabel="")


def _once(pyplot: Any, figure: Any) -> Figure:
    """Return the figure so that a notebook shows it once: as the value of its cell, not at its end as well."""
    if "inline" in pyplot.get_backend():
        pyplot.close(figure)
    return figure  # type: ignore[no-any-return]
