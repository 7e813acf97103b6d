"""Connected regions of label rasters as vectors: GeoJSON or GeoParquet, such as the polygons that changed between two dates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.cube.labels import class_numbers
from eoaug.errors import GridError, ParameterError, did_you_mean
from eoaug.exports.images import label_of, opened
from eoaug.exports.regions import regions
from eoaug.raster.grid import gsd_m

__all__ = ["POLYGON_FILES", "background_of", "write_polygons"]


POLYGON_FILES = (".geojson", ".parquet")
_GEO = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon", "MultiPolygon"]}},
}
"""Metadata of GeoParquet; without a reference system: longitude and latitude (OGC:CRS84)."""


def background_of(train: TrainingSet, name: str | None) -> int | None:
    """Return the number of the class without regions; of maps of change the first one where none is named.

    Raises
    ------
    ParameterError
        It is no class of the set.
    """
    if name is None:
        return 0 if train.task == "change" else None
    if name not in train.classes:
        raise ParameterError(
            f"background={name!r} is no class of the set",
            did_you_mean(name, train.classes) or f"use one of {', '.join(train.classes)}",
        )
    return train.index_of(name)


def write_polygons(train: TrainingSet, out: Path, *, form: str, background: str | None) -> None:
    """Write one file with the regions of all images, in degrees; one image at a time is in memory.

    Every polygon has the properties ``item``, ``split``, ``class``, ``area_m2`` and ``synthetic_fraction``.

    Parameters
    ----------
    train
        A set with classes of pixels, or maps of change.
    out
        The file to write.
    form
        One of `POLYGON_FILES`.
    background
        Name of a class without regions. Default: none; of maps of change, the first class.
    """
    if train.task == "classes":
        raise ParameterError(
            "polygons are regions of a label raster, and the label is a class of the whole image",
            "use format='geoparquet', or a label of pixels: task='pixels' or task='change'",
        )
    skipped = background_of(train, background)
    write = _write_geojson if form == ".geojson" else _write_geoparquet
    write(out, (_features(item, train, skipped) for item in train))


def _features(item: TrainingItem, train: TrainingSet, skipped: int | None) -> list[dict[str, Any]]:
    """Return the regions of an image as GeoJSON features."""
    one = opened(item, train)
    geobox = one.cube.geobox
    if not one.cube.georeferenced or geobox.crs is None:
        raise GridError(
            f"image {item.id!r} has no coordinate reference system, so its polygons lie nowhere",
            "use format='coco', which has polygons in pixels",
        )
    names, pixel_m2 = dict(enumerate(train.classes)), gsd_m(geobox) ** 2
    return [
        {
            "type": "Feature",
            "geometry": region.lonlat(geobox),
            "properties": {
                "item": item.id,
                "split": item.split or None,
                "class": names.get(region.number, str(region.number)),
                "area_m2": round(region.polygon.area * pixel_m2, 3),
                "synthetic_fraction": one.marks.get("synthetic_fraction"),
            },
        }
        for region in regions(class_numbers(label_of(one, train), one.cube.names_yx))
        if region.number != skipped
    ]


def _write_geojson(out: Path, images: Iterator[list[dict[str, Any]]]) -> None:
    with out.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        begin = "\n"
        for features in images:
            for feature in features:
                file.write(begin + json.dumps(feature))
                begin = ",\n"
        file.write("\n]}\n")


def _write_geoparquet(out: Path, images: Iterator[list[dict[str, Any]]]) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ParameterError(
            "a .parquet file of polygons needs the package pyarrow", "pip install 'eoaug[geoparquet]'"
        ) from error
    from shapely.geometry import shape

    kinds = {"item": pa.string(), "split": pa.string(), "class": pa.string(), "area_m2": pa.float64(), "synthetic_fraction": pa.float64()}  # fmt: skip
    schema = pa.schema(
        [pa.field("geometry", pa.binary()), *(pa.field(name, kind) for name, kind in kinds.items())],
        metadata={"geo": json.dumps(_GEO)},
    )
    with parquet.ParquetWriter(out, schema) as writer:
        for features in images:
            columns: dict[str, list[Any]] = {"geometry": [shape(one["geometry"]).wkb for one in features]}
            columns |= {name: [one["properties"][name] for one in features] for name in kinds}
            writer.write_table(pa.table(columns, schema=schema))
