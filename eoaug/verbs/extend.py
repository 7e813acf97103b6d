"""extend: new dates."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import xarray as xr

from eoaug.cube.model import Cube
from eoaug.cube.roles import label_variables
from eoaug.errors import EoaugWarning, ParameterError, TimeError
from eoaug.verbs.arguments import dates_of, generator_for, seconds_of
from eoaug.verbs.masking import Mask, cube_for, mask_of_cube
from eoaug.verbs.options import Options
from eoaug.verbs.prepare import PreparedVerb, VerbCall, prepare
from eoaug.verbs.run import run_verb

__all__ = ["extend", "prepare_extend"]


def extend[T: (xr.Dataset, xr.DataArray, xr.DataTree)](
    ds: T,
    *,
    times: Any,
    mask: Mask = None,
    mask_buffer: float | str | None = None,
    sequence: bool | None = None,
    **options: Unpack[Options],
) -> T:
    """Add dates before, between or after the given ones; the given dates are returned unchanged, bit for bit.

    Parameters
    ----------
    ds
        The cube, with dates.
    times
        A date or a list of dates to add, as text or datetimes, at least a second apart; UTC if without a time zone.
    sequence
        True generates several new dates autoregressively: forward in time from the first given date, then
        backward from it, each with the dates before it as context; every ensemble member depends on its own.
        False generates each date from the given dates alone. Default: the generator's default.
    mask
        Pixels that are no evidence for the new dates, such as clouds; as for `inpaint`. Default: what a quality band
        of the cube says, if it has one that is understood; ``"none"`` takes every pixel as it is.
    mask_buffer
        Radius in metres by which the mask is dilated, or pixels as a text, as for `inpaint`: 100 for a quality band.
    **options
        See `eoaug.verbs.options.Options`.

    Returns
    -------
    An object of the type of ``ds`` with given and new dates in order, and the mask ``synthetic``. Variables
    along time that are not bands (masks, labels) are dropped: they are unknown on a new date. A warning names the labels
    among them; labels without dates stay.

    Raises
    ------
    EoaugError
        An argument that cannot be used; the message holds its value and the remedy.
    """
    result: T = run_verb(
        "extend",
        prepare_extend,
        ds,
        options,
        times=times,
        sequence=sequence,
        mask=mask,
        mask_buffer=mask_buffer,
    )
    return result


def prepare_extend(
    ds: Any,
    options: Options,
    *,
    times: Any,
    sequence: Any = None,
    mask: Any = None,
    mask_buffer: Any = None,
) -> PreparedVerb:
    """Check the arguments of `extend` and return its plan and inputs."""
    generator = generator_for(options, "extend")
    cube = cube_for(ds, mask, options.get("labels"))
    if cube.times is None or cube.name_time is None:
        raise TimeError(
            "the cube has no time dimension with a coordinate, so no dates to extend",
            "add it: ds.expand_dims(time=[pandas.Timestamp('2024-06-01')])",
        )
    new = dates_of(times)
    both = np.intersect1d(seconds_of(new), seconds_of(cube.times))
    if len(both):
        raise TimeError(f"the cube has {np.datetime64(int(both[0]), 's')} already", "leave it out of times=")
    dates = np.sort(np.concatenate([cube.times.astype("datetime64[ns]"), new]))
    if not (sequence is None or isinstance(sequence, bool | np.bool_)):
        raise ParameterError(f"sequence={sequence!r} is not True or False", "e.g. sequence=True")
    autoregressive = len(new) > 1 and bool(generator.card.autoregressive if sequence is None else sequence)
    if autoregressive and options.get("reduce") is not None:
        raise ParameterError(
            f"reduce={options['reduce']!r} does not go with a sequence of {len(new)} dates, whose members diverge",
            "reduce the result over its dimension member, or generate the dates independently: sequence=False",
        )
    masking = mask_of_cube(cube, mask, mask_buffer)
    own: dict[str, Any] = {"times": [str(t) for t in new.astype("datetime64[s]")], **masking.record}
    call = VerbCall(
        verb="extend",
        cube=cube,
        generator=generator,
        fill="footprint",
        mask=masking.pixels,
        needs_known=masking.pixels is not None,
        dates=dates.astype(cube.times.dtype),
        autoregressive=autoregressive,
        own={**own, "sequence": True} if autoregressive else own,
        notes=_dropped_labels(cube),
    )
    return prepare(call, options)


def _dropped_labels(cube: Cube) -> tuple[tuple[str, str], ...]:
    """Warn of labels with dates, which are not known on a new one; return the note for `Plan.explain`."""
    dropped = [name for name in label_variables(cube.source) if cube.name_time in cube.source[name].dims]
    if not dropped:
        return ()
    text = f"{', '.join(dropped)} dropped: labels with dates are not known on new ones"
    warnings.warn(
        f"extend: {text}; a label that holds for all dates stays without the dimension {cube.name_time!r}, e.g. "
        f"ds[{dropped[0]!r}].isel({cube.name_time}=0, drop=True)",
        EoaugWarning,
        skip_file_prefixes=(str(Path(__file__).parent.parent),),
    )
    return (("labels", text),)
