"""synthesize: variations of a cube, and unconditional synthesis of any extent."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import xarray as xr

from eoaug.cube.roles import label_names
from eoaug.engine.coverage import coverage_of
from eoaug.errors import EoaugWarning, ParameterError
from eoaug.generators.base import ClassMapGenerator, Generator
from eoaug.raster.bands import SYNTHETIC
from eoaug.raster.grid import as_geobox
from eoaug.verbs.arguments import dates_of, generator_for
from eoaug.verbs.checks import number
from eoaug.verbs.layers import empty_cube
from eoaug.verbs.masking import Mask, cube_for, mask_of_cube
from eoaug.verbs.options import Options
from eoaug.verbs.prepare import PreparedVerb, VerbCall, prepare
from eoaug.verbs.run import run_verb

__all__ = ["prepare_synthesize", "synthesize"]


_LEAST_CLEAR = 0.1
"""Clear share of a date below which a variation is worth a warning."""


def synthesize[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
    ds: T | None = None,
    *,
    like: Any = None,
    resolution: float | None = None,
    crs: Any = None,
    times: Any = None,
    bands: Sequence[str] | None = None,
    mask: Mask = None,
    mask_buffer: float | str | None = None,
    strength: float | None = None,
    **options: Unpack[Options],
) -> T:
    """Generate every pixel: a variation of a real cube, or unconditional synthesis of any extent.

    Parameters
    ----------
    ds
        A cube to vary (SDEdit, arXiv 2108.01073); nodata stays nodata.
    like
        Instead of ``ds``: a GeoBox, or a bounding box (left, bottom, right, top) with ``resolution`` and
        ``crs``. The result is a lazy Dataset of the generator's bands in reflectance (float32).
    resolution
        Pixel size in units of ``crs``, with a bounding box.
    crs
        Coordinate reference system, with a bounding box.
    times
        Dates of the result, with ``like``.
    bands
        Common names of its bands, with ``like``. Default: the bands of the generator's networks. ``embedded`` also draws
        ``coastal``, ``rededge071``, ``rededge075``, ``rededge078``, ``nir08`` and ``nir09``; in a cube they can be drawn with
        ``strength=1``.
    strength
        Denoising strength, 0 to 1: 0 keeps ``ds``, 1 ignores it. Default 0.6.
    mask
        Pixels of ``ds`` that a variation does not start from, such as clouds: it has land there. As for `extend`, with
        the same default.
    mask_buffer
        Radius of its dilation, as for `extend`.
    **options
        See `eoaug.verbs.options.Options`. With ``like`` and ``embedded``:

        - ``prompt="fields with a village"`` names classes of land; without one it is a mixture of them.
        - ``layout=codes``, a DataArray on the grid of the result, decides the class pixel by pixel: 1 annual_crop, 2 forest,
          3 herbaceous_vegetation, 4 highway, 5 industrial, 6 pasture, 7 permanent_crop, 8 residential, 9 river, 10 sea_lake;
          0 where the prompt decides.
        - ``labels="landcover"`` adds a variable of that name with the class in the middle of each pixel; the bands are the
          same with and without it.
        - ``steps`` has no effect: land is drawn by rules, in the colours of real chips.

        Of a cube, ``embedded`` keeps edges up to a strength of 0.6: texture is that of the scene some pixels away, light and
        the tones of parcels change, and ``steps`` has an effect only where a mask hides the start. Above it new land mixes in,
        which ``prompt`` names; below it a prompt is refused, as by the other verbs.

    Returns
    -------
    An object of the type of ``ds`` (a Dataset with ``like``), with the mask ``synthetic``.

    Raises
    ------
    EoaugError
        An argument that cannot be used; the message holds its value and the remedy.
    """
    result: T = run_verb(
        "synthesize",
        prepare_synthesize,
        ds,
        options,
        like=like,
        resolution=resolution,
        crs=crs,
        times=times,
        bands=bands,
        strength=strength,
        mask=mask,
        mask_buffer=mask_buffer,
    )
    return result


def prepare_synthesize(
    ds: Any,
    options: Options,
    *,
    like: Any = None,
    resolution: Any = None,
    crs: Any = None,
    times: Any = None,
    bands: Any = None,
    strength: float | None = None,
    mask: Any = None,
    mask_buffer: Any = None,
) -> PreparedVerb:
    """Check the arguments of `synthesize` and return its plan and inputs."""
    if (ds is None) == (like is None):
        raise ParameterError(
            f"either a cube to vary or like= is needed, got {'neither' if ds is None else 'both'}",
            "synthesize(ds, strength=0.6), or synthesize(like=geobox, times=['2024-06-01'])",
        )
    generator = generator_for(options, "synthesize")
    if like is None:
        strength = 0.6 if strength is None else number("strength", strength, 0.0, 1.0)
        _refuse_outputs(times, bands)
        if options.get("layout") is not None and generator.card.by_place and strength < 1:
            raise ParameterError(
                f"{generator.card.name} uses a layout for new land only, and strength={strength} keeps that of the cube",
                "leave layout out, or give strength=1",
            )
        cube = cube_for(ds, mask, options.get("labels"))
        masking = mask_of_cube(cube, mask, mask_buffer)
        call = VerbCall(
            verb="synthesize",
            cube=cube,
            generator=generator,
            fill="measured",
            mask=masking.pixels,
            needs_known=masking.pixels is not None and strength < 1,
            strength=strength,
            own={"strength": strength, **masking.record},
        )
        prepared = prepare(call, options)
        if masking.pixels is not None and strength < 1:
            _warn_of_hidden_dates(prepared)
        return prepared
    if strength is not None and strength != 1.0:
        raise ParameterError(
            f"strength={strength} needs a cube to depart from",
            "leave it out, or give a cube instead of like=",
        )
    if mask is not None or mask_buffer is not None:
        raise ParameterError(
            "mask= and mask_buffer= go with a cube to vary, and like= has no pixels",
            "leave them out, or give a cube instead of like=",
        )
    name = _class_map(generator, options)
    geobox = as_geobox(like, resolution=resolution, crs=crs)
    dates = dates_of(times) if times is not None else None
    cube = empty_cube(geobox, dates, generator.card, _names(bands))
    own = {"like": True, **({"labels": name} if name else {})}
    call = VerbCall(verb="synthesize", cube=cube, generator=generator, fill="scene", own=own, class_map=name)
    return prepare(call, options)


def _refuse_outputs(times: Any, bands: Any) -> None:
    """Refuse arguments that describe a cube without input, where there is one."""
    if times is not None:
        raise ParameterError(
            f"times={times!r} does not go with a cube to vary", "use extend(ds, times=...) for new dates"
        )
    if bands is not None:
        raise ParameterError(
            f"bands={bands!r} does not go with a cube to vary, all of whose bands are varied",
            "leave it out, or select them: ds[['red', 'nir']]",
        )


def _names(bands: Any) -> Sequence[str]:
    """Return names of bands; none where they are left out."""
    if bands is None:
        return ()
    if isinstance(bands, str) or not all(isinstance(name, str) for name in bands) or not list(bands):
        raise ParameterError(f"bands={bands!r} are no names of bands", "e.g. bands=['red', 'rededge071']")
    return list(bands)


def _warn_of_hidden_dates(prepared: PreparedVerb) -> None:
    """Say which dates a mask hides nearly whole: their variation has next to nothing to start from."""
    coverage = coverage_of(prepared.plan, prepared.inputs)
    if coverage is None or prepared.times is None:
        return
    hidden = np.datetime_as_string(prepared.times[coverage.clear < _LEAST_CLEAR], unit="D").tolist()
    if hidden:
        named = prepared.parameters.get("mask")
        shown = repr(named) if isinstance(named, str) else "the same mask"
        more = f" and {len(hidden) - 3} more" if len(hidden) > 3 else ""
        warnings.warn(
            f"synthesize: the mask hides at least {1 - _LEAST_CLEAR:.0%} of {', '.join(hidden[:3])}{more}, and what is made there "
            f"is smooth; fill the cube from its other dates first, ds.eoaug.inpaint(mask={shown}), then vary it with mask='none', or "
            "leave such dates out",
            EoaugWarning,
            skip_file_prefixes=(str(Path(__file__).parent.parent),),
        )


def _class_map(generator: Generator, options: Options) -> str:
    """Return the name of the variable with the classes that are laid out; empty if it is not asked for."""
    names = label_names(options.get("labels"))
    if not names:
        return ""
    card = generator.card
    if not card.classes or not isinstance(generator, ClassMapGenerator):
        raise ParameterError(
            f"labels={list(names)!r} asks for the classes that are laid out, and generator {card.name!r} lays out none",
            "use generator='embedded', or leave labels out",
        )
    taken = {*card.bands, *card.land_bands, SYNTHETIC, "time", "y", "x", "member", "spatial_ref"}
    if len(names) > 1 or names[0] in taken or not names[0].isidentifier():
        raise ParameterError(
            f"labels={list(names)!r} is not one free name for the variable with the classes that are laid out",
            "use labels='landcover'",
        )
    if options.get("reduce") is not None:
        raise ParameterError(
            f"reduce={options['reduce']!r} joins members, and each has classes of its own",
            "leave labels or reduce out",
        )
    return names[0]
