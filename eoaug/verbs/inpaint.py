"""inpaint: gaps and masked pixels."""

from __future__ import annotations

from typing import Any, Literal, Unpack

import xarray as xr

from eoaug.engine.values import Fill
from eoaug.errors import ParameterError
from eoaug.verbs.arguments import generator_for
from eoaug.verbs.masking import Mask, cube_for, mask_by, warn_of_unused
from eoaug.verbs.options import Options
from eoaug.verbs.prepare import PreparedVerb, VerbCall, prepare
from eoaug.verbs.run import run_verb

__all__ = ["inpaint", "prepare_inpaint"]


def inpaint[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
    ds: T,
    *,
    mask: Mask = None,
    mask_buffer: float | str | None = None,
    fill: Literal["gaps", "all"] | None = None,
    **options: Unpack[Options],
) -> T:
    """Fill clouds and gaps; every other pixel is returned unchanged, bit for bit.

    Parameters
    ----------
    ds
        The cube. Its dates are context for each other.
    mask
        What to fill: a DataArray on the cube's grid (True or 1 = fill, or classes that its name or its CF flags
        explain); a variable's name; ``"scl"`` or ``"qa_pixel"`` for the clouds of that quality band; a list of its
        class names. Default: missing pixels, with a warning if a quality band of the cube says that others are cloud;
        ``"none"`` is the default without the warning. ``"omnicloudmask"`` asks the networks of the extra
        ``eoaug[omnicloudmask]``, ``"omnicloudmask:FOLDER"`` those with their weights in a folder; eoaug fetches none.
    mask_buffer
        Radius in metres by which the mask is dilated before anything else, because masks miss rims, haze and shadow;
        a text such as ``"10px"`` is in pixels. Default: 100 for what a quality band says (by its name, its class
        names or its flags), 0 for a mask of booleans, which fills those pixels and no others.
    fill
        Without a mask: ``"gaps"`` fills the missing pixels that another date measured, ``"all"`` every missing
        pixel, also beyond the swath. Default: gaps; all for a cube of one date, where gaps and swath edge
        cannot be distinguished. A cube without one known pixel is refused, and left as it is where it is
        lazy; only ``fill="all"`` generates it.
    **options
        See `eoaug.verbs.options.Options`.

    Returns
    -------
    An object of the type of ``ds``, with the mask ``synthetic``.

    Raises
    ------
    EoaugError
        An argument that cannot be used; the message holds its value and the remedy.
    """
    result: T = run_verb(
        "inpaint", prepare_inpaint, ds, options, mask=mask, mask_buffer=mask_buffer, fill=fill
    )
    return result


def prepare_inpaint(
    ds: Any, options: Options, *, mask: Any = None, mask_buffer: Any = None, fill: str | None = None
) -> PreparedVerb:
    """Check the arguments of `inpaint` and return its plan and inputs."""
    if fill not in (None, "gaps", "all"):
        raise ParameterError(f"fill={fill!r} is unknown", "use 'gaps' or 'all', or leave it out")
    generator = generator_for(options, "inpaint")
    cube = cube_for(ds, mask, options.get("labels"))
    by_name = fill == "all"
    # With one date, a gap cannot be distinguished from the area outside the footprint.
    fill = fill or ("gaps" if cube.times is not None and len(cube.times) > 1 else "all")
    masking = mask_by(cube, mask, mask_buffer, fills=True)
    if mask is None:
        warn_of_unused(cube)
    rule: Fill = "mask" if masking.pixels is not None else ("gaps" if fill == "gaps" else "everything")
    call = VerbCall(
        verb="inpaint",
        cube=cube,
        generator=generator,
        fill=rule,
        mask=masking.pixels,
        own={"mask": False, **masking.record, "fill": fill},
        needs_known=not by_name,
    )
    return prepare(call, options)
