"""The argument `to` of translate: which bands of a cube are to be made, and which are added to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eoaug.cube.model import Cube, CubeBand
from eoaug.errors import BandError, ParameterError
from eoaug.generators.translation.conversion import BandOfProduct, can_be_converted, why_not_converted
from eoaug.generators.translation.spectral_mixture import shipped_mixture
from eoaug.raster.bands import Band, common_name
from eoaug.raster.plausible import quantity_of
from eoaug.raster.products import Product, product_named, product_of_band

__all__ = ["NewBand", "bands_to_make", "check_can_be_made"]


@dataclass(frozen=True)
class NewBand:
    """A band that a cube lacks."""

    name: str
    """Name of its variable."""
    common_name: str
    product: Product

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes of the variable."""
        kind = "top-of-atmosphere reflectance" if self.product.top_of_atmosphere else "surface reflectance"
        own: dict[str, Any] = {"common_name": self.common_name, "units": "1", "long_name": kind}
        if self.product.sensor:
            own["platform"] = self.product.sensor
        if self.product.level:
            own["processing:level"] = (
                {1: "L1C", 2: "L2A"}[self.product.level]
                if self.product.sensor == "sentinel-2"
                else f"L{self.product.level}"
            )
        return own


def bands_to_make(cube: Cube, to: Any) -> tuple[list[str], list[NewBand]]:
    """Return the names of the bands of a cube that are to be made, and the bands that it lacks.

    Parameters
    ----------
    cube
        The cube.
    to
        As the user gave it: names of bands, or the name of a product.

    Raises
    ------
    ParameterError, BandError
        It names nothing that can be made.
    """
    asked = [to] if isinstance(to, str) else list(to) if isinstance(to, Sequence) else []
    if not asked or not all(isinstance(name, str) for name in asked):
        raise ParameterError(f"to={to!r} names no band", "e.g. to=['B11', 'B12'], or to='sentinel-2'")
    product = product_named(asked[0])
    if len(asked) == 1 and product is not None:
        return _bands_of_product(cube, product, asked[0])
    wanted, absent = [], []
    for name in asked:
        own = _band_called(cube, name)
        if own is not None:
            wanted.append(own)
        else:
            absent.append(_new_band(cube, name))
    return wanted, absent


def _band_called(cube: Cube, name: str) -> str | None:
    """Return the band of a cube that a name or a common name means; None if the cube lacks it."""
    by_name = {band.name: band for band in cube.bands}
    if name in by_name:
        return name
    by_common = {band.common_name: band for band in cube.bands if band.common_name}
    if name in by_common:
        return by_common[name].name
    meant, product = _meaning(cube, name)
    own = by_common.get(meant) if meant else None
    return own.name if own is not None and product.may_be(own.product) else None


def _new_band(cube: Cube, name: str) -> NewBand:
    """Return the band that a name means and that a cube lacks.

    Raises
    ------
    BandError
        Nothing in the cube can tell its reflectance.
    """
    meant, product = _meaning(cube, name)
    if meant is None:
        names = ", ".join(band.name for band in cube.bands)
        raise BandError(
            f"to={name!r}: the cube has no such band, and nothing to learn it from",
            f"its bands: {names}; without a measurement: {', '.join(shipped_mixture().bands)}",
        )
    if not product.sensor:
        product = _product_of_cube(cube)
    band = NewBand(name, meant, product)
    _check(cube, [band], name)
    return band


def _bands_of_product(cube: Cube, product: Product, asked: str) -> tuple[list[str], list[NewBand]]:
    """Return the bands of a cube that belong to a product, or those of the product that can be added to it.

    Parameters
    ----------
    cube, product
        The cube, and the product as it was named.
    asked
        How the user named it, for messages.

    Raises
    ------
    BandError
        The cube has none, and nothing to make them from.
    """
    own = _own_bands(cube, product)
    if own and len(own) < len(cube.bands):
        return own, []
    levels = {band.product.level for band in cube.bands if band.product.sensor == product.sensor}
    if not product.level and len(levels) == 1:
        product = replace(product, level=levels.pop())
    have = {band.common_name for band in cube.bands if band.name in own}
    taken = {band.name for band in cube.bands}
    missing = [
        NewBand(_free_name(band.name, product, taken), band.common_name, product)
        for band in product.bands
        if band.common_name not in have and band.kind == "optical"
    ]
    given = _reflectances(cube)
    # Another level of a sensor: its bands, and none that the cube lacks at both levels.
    other_level = {
        band.common_name
        for band in cube.bands
        if product.sensor == band.product.sensor and band.name not in own
    }
    missing = [band for band in missing if not other_level or band.common_name in other_level]
    able = [band for band in missing if can_be_converted(_of(band), given)]
    if not able:
        _check(cube, missing or [NewBand(asked, "", product)], asked)
    return [], able


def check_can_be_made(cube: Cube, wanted: Sequence[str]) -> None:
    """Refuse bands of a cube that are made without a measurement, if its other bands do not tell them.

    Raises
    ------
    BandError
        The message names the band.
    """
    rest = [band for band in cube.bands if band.name not in wanted and _reflects(band)]
    given = [BandOfProduct(band.common_name or "", band.product) for band in rest]
    for band in cube.bands:
        if band.name in wanted and not can_be_converted(
            BandOfProduct(band.common_name or "", band.product), given
        ):
            raise BandError(
                f"to={band.name!r}: without a measurement of it, the other bands of the image do not tell it",
                f"bands of reflectance that tell each other: {', '.join(shipped_mixture().bands)}",
            )


def _own_bands(cube: Cube, product: Product) -> list[str]:
    table = product.bands
    names = {band.name.upper() for band in table}
    commons = {band.common_name for band in table}
    fitting = [band for band in cube.bands if band.product.may_be(product)]
    by_name = [band.name for band in fitting if band.name.upper() in names]
    return by_name or [band.name for band in fitting if band.common_name in commons]


def _free_name(name: str, product: Product, taken: Iterable[str]) -> str:
    """Return the provider's name of a band, with its level or sensor where the cube has another band of that name."""
    if name not in taken:
        return name
    level = {1: "l1c", 2: "l2a"}.get(product.level)
    return f"{name}_{level or product.sensor.replace('-', '')}"


def _meaning(cube: Cube, name: str) -> tuple[str | None, Product]:
    """Return the common name and the product that a name means next to the bands of a cube."""
    platform = _product_of_cube(cube).sensor or None
    product = product_of_band(name, {}, platform=platform)
    meant = common_name(name, {}, product.sensor or "sentinel-2") or common_name(name, {})
    named_by_sensor = meant is not None and name.lower() != meant
    return meant, product if named_by_sensor else Product()


def _product_of_cube(cube: Cube) -> Product:
    """Return the product of all bands of reflectance, as far as they agree."""
    products = {band.product for band in cube.bands if _reflects(band)}
    sensors, levels = {p.sensor for p in products} - {""}, {p.level for p in products} - {0}
    return Product(
        sensors.pop() if len(sensors) == 1 else "",
        levels.pop() if len(levels) == 1 else 0,
    )


def _reflects(band: CubeBand) -> bool:
    return quantity_of(band.common_name) == "reflectance"


def _reflectances(cube: Cube) -> list[BandOfProduct]:
    return [BandOfProduct(band.common_name or "", band.product) for band in cube.bands if _reflects(band)]


def _of(band: NewBand | Band) -> BandOfProduct:
    return BandOfProduct(band.common_name, band.product if isinstance(band, NewBand) else Product())


def _check(cube: Cube, bands: list[NewBand], asked: str) -> None:
    """Refuse bands of which nothing in the cube tells the reflectance."""
    given = _reflectances(cube)
    if all(can_be_converted(_of(band), given) for band in bands):
        return
    if not given:
        raise BandError(
            f"to={asked!r}: the cube has no band of reflectance to make it from",
            f"add some of {', '.join(shipped_mixture().bands)}",
        )
    reasons = [why_not_converted(band) for band in (*given, *map(_of, bands))]
    why = next((reason for reason in reasons if reason), "the bands of the cube do not tell it")
    raise BandError(
        f"to={asked!r}: the cube has no other bands to make it from: {why}",
        "add a date, or a part of one, on which it was measured, as a variable of the cube: regressions are then fitted to it; "
        f"without a measurement: {', '.join(shipped_mixture().bands)}",
    )
