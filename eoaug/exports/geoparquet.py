"""stac-geoparquet: the items of a training set as one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eoaug.augmentation.training_items import TrainingItem, TrainingSet
from eoaug.errors import ParameterError
from eoaug.exports.images import opened
from eoaug.exports.label_items import label_item

__all__ = ["write_geoparquet"]


def write_geoparquet(train: TrainingSet, out: Path, *, datetime: str | None) -> None:
    """Write one Parquet file of items: those of a catalog as they are, of other sources items of the extension label.

    Parameters
    ----------
    train
        The set.
    out
        The file to write.
    datetime
        Date or interval of images that have none.
    """
    try:
        from stac_geoparquet import arrow
    except ImportError as error:
        raise ParameterError(
            "format='geoparquet' needs the package stac-geoparquet", "pip install 'eoaug[geoparquet]'"
        ) from error
    documents = [_document(item, train, datetime) for item in train]
    arrow.to_parquet(arrow.parse_stac_items_to_arrow(documents), out)


def _document(item: TrainingItem, train: TrainingSet, datetime: str | None) -> dict[str, Any]:
    entry = getattr(item.source, "entry", None)
    if entry is None:
        one = opened(item, train)
        made = label_item(one, train, datetime)
        if item.href:
            made["assets"]["image"] = {"href": Path(item.href).absolute().as_posix(), "roles": ["data"]}
        return made
    from eoaug.stac.search import as_item

    found = as_item(entry)
    document: dict[str, Any] = json.loads(json.dumps(found.to_dict(transform_hrefs=False)))
    for key, asset in found.assets.items():  # a table has no place that addresses could be relative to
        document["assets"][key]["href"] = asset.get_absolute_href() or asset.href
    return document
