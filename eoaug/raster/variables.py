"""What a variable of a cube is: the one place that decides it, for the verbs, writing, evaluation and training.

Archives put classes, masks, probabilities, angles and terrain next to the bands. A generator that takes one of them
for a band draws classes that do not exist, or refuses the whole cube for its units.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

from eoaug.errors import ParameterError
from eoaug.raster.bands import SYNTHETIC, common_name
from eoaug.raster.quality import declared_quality, is_described_as_probability, known_quality

__all__ = ["LABEL", "ROLE", "Role", "holds_classes", "is_numbered", "plain_name", "role_of"]

Role = Literal["band", "quality", "probability", "label", "angle", "ancillary", "mark"]
"""``quality``: classes or flags of the measurement (clouds, fill). ``label``: classes of what is on the ground.
``ancillary``: terrain, aerosol, water vapour and other layers that a generator does not draw. ``mark``: the synthetic
mask."""

ROLE = "eoaug_role"
"""Attribute of a variable whose role was declared: ``label`` of one that the user, or the asset of an item, calls a label."""
LABEL: Role = "label"

_CLASSES: frozenset[Role] = frozenset({"quality", "label", "mark"})
_UNNAMED = re.compile(r"\d+|band[_ ]?\d+|band_data|values|data|__xarray_dataarray_variable__|none")
"""Placeholder names that a reader assigned."""
_NUMBERED = re.compile(r"(s[rt]_)?b(and)?_?\d{1,2}a?([_-]\d+m)?")
"""Names of spectral bands whose sensor is not known."""
_MASK = re.compile(r"scl|qa_pixel|pixel_qa|bqa|qa60|fmask|.*_mask|qa_.*")
_LABEL = re.compile(
    r"labels?|land_?(cover|use)|lulc|lu_?lc|world_?cover|esa_world_?cover|dynamic_?world|corine|clc|crop_?types?|"
    r"class(es)?|classification|segmentation|ground_?truth"
)
_ANGLE = re.compile(
    r"((sun|solar|view|viewing|sensor|satellite|incidence|incident|local_incidence|off_?nadir|mean_(sun|view(ing)?))_?)+"
    r"(zenith|azimuth|elevation|angles?)(_.*)?|(zenith|azimuth)(_.*)?|[svr][az]a|lia|incidence_?angle|off_?nadir"
)
_ANCILLARY = re.compile(
    r"aot|aod|wvp|tcwv|water_?vapou?r|dem|dsm|dtm|elevation|height|altitude|terrain|slope|aspect|hillshade|chm|"
    r"distance.*|source_date|count|n_?obs|observations|weights?|uncertainty|residual|.+_(std|stddev|uncertainty|opacity|clear)"
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
    if name in labels or attrs.get(ROLE) == LABEL:
        return LABEL
    if name == SYNTHETIC:
        return "mark"
    name = plain_name(name, attrs)
    if "flag_values" in attrs or "flag_masks" in attrs:
        return _of_flags(name, attrs, product)
    known = known_quality(name, product)
    if known is not None:
        classes = known.threshold is None and not (known.two_valued and is_described_as_probability(attrs))
        return "quality" if classes else "probability"
    plain = name.lower().replace("-", "_").replace(" ", "_")
    if _MASK.fullmatch(plain):
        return "quality"
    if common_name(name, attrs, platform) is not None or _NUMBERED.fullmatch(plain):
        return "band"
    if _LABEL.fullmatch(plain):
        return "label"
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
    named = known_quality(name, product) is not None or _MASK.fullmatch(name.lower()) is not None
    return "quality" if about_clouds or named else "label"


def holds_classes(name: str, attrs: Mapping[str, Any]) -> bool:
    """Tell whether a variable holds classes or flags: no number between two of them has a meaning.

    Parameters
    ----------
    name, attrs
        Of the variable.
    """
    return role_of(name, attrs) in _CLASSES


def is_numbered(name: str) -> bool:
    """Tell whether a name is that of a band by its number, or a placeholder that a reader assigned."""
    plain = name.lower().replace("-", "_").replace(" ", "_")
    return _NUMBERED.fullmatch(plain) is not None or _UNNAMED.fullmatch(plain) is not None


def plain_name(name: str, attrs: Mapping[str, Any]) -> str:
    """Return a variable's name; for a placeholder (``band_1``), the name in rioxarray's ``long_name``.

    Parameters
    ----------
    name, attrs
        Of the variable; ``long_name`` is the band's description in the file.
    """
    described = attrs.get("long_name")
    if isinstance(described, str) and described.strip() and _UNNAMED.fullmatch(name.lower()):
        return described.strip()
    return name
