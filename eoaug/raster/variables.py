"""What a variable of a cube is: the one place that decides it, for the verbs, writing, evaluation and training.

Archives put classes, masks, probabilities, angles and terrain next to the bands. A generator that takes one of them
for a band draws classes that do not exist, or refuses the whole cube for its units.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

from eoaug.errors import ParameterError
from eoaug.raster.bands import SYNTHETIC, common_name, is_mask_name
from eoaug.raster.quality import declared_quality, known_quality

__all__ = ["Role", "role_of"]

Role = Literal["band", "quality", "probability", "label", "angle", "ancillary", "mark"]
"""``quality``: classes or flags of the measurement (clouds, fill). ``label``: classes of what is on the ground.
``ancillary``: terrain, aerosol, water vapour and other layers that a generator does not draw. ``mark``: the synthetic
mask."""

_ANGLE = re.compile(
    r"((sun|solar|view|viewing|sensor|satellite|incidence|incident|local_incidence|off_?nadir|mean_(sun|view(ing)?))_?)+"
    r"(zenith|azimuth|elevation|angles?)(_.*)?|(zenith|azimuth)(_.*)?|[svr][az]a|lia|incidence_?angle|off_?nadir"
)
_ANCILLARY = re.compile(
    r"aot|aod|wvp|tcwv|water_?vapou?r|dem|dsm|dtm|elevation|height|altitude|terrain|slope|aspect|hillshade|chm|"
    r"distance.*|count|n_?obs|observations|weights?|uncertainty|residual"
)
_UNITS: Mapping[str, Role] = {
    **dict.fromkeys(("degree", "degrees", "deg", "°", "rad", "radian", "radians"), "angle"),
    **dict.fromkeys(("percent", "%"), "ancillary"),
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters", "km", "feet", "ft"), "ancillary"),
    **dict.fromkeys(("kg m-2", "kg/m2", "kg m^-2", "g/cm2", "cm"), "ancillary"),
}


def role_of(
    name: str,
    attrs: Mapping[str, Any],
    *,
    platform: str | None = None,
    product: str = "",
    labels: Collection[str] = (),
) -> Role:
    """Return what a variable is.

    Parameters
    ----------
    name, attrs
        Of the variable.
    platform
        The satellite, where known; tells what a band's name means.
    product
        What else is known of its origin; see `eoaug.raster.quality.known_quality`.
    labels
        Names of variables that the user declares to be labels.
    """
    if name in labels:
        return "label"
    if name == SYNTHETIC:
        return "mark"
    if "flag_values" in attrs or "flag_masks" in attrs:
        return _of_flags(name, attrs, product)
    known = known_quality(name, product)
    if known is not None:
        return "quality" if known.threshold is None else "probability"
    if is_mask_name(name, attrs):
        return "quality"
    if common_name(name, attrs, platform) is not None:
        return "band"
    plain = name.lower().replace("-", "_").replace(" ", "_")
    if _ANGLE.fullmatch(plain):
        return "angle"
    if _ANCILLARY.fullmatch(plain):
        return "ancillary"
    return _UNITS.get(str(attrs.get("units", "")).strip().lower(), "band")


def _of_flags(name: str, attrs: Mapping[str, Any], product: str) -> Role:
    try:
        declared = declared_quality(name, attrs)
    except ParameterError:  # broken flags are refused where the classes are used
        return "quality"
    about_clouds = declared is not None and bool(declared.cloud)
    return "quality" if about_clouds or known_quality(name, product) or is_mask_name(name, {}) else "label"
