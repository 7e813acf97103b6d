"""Schema URIs of the STAC extensions that items of eoaug use, including its own."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

__all__ = [
    "CLASSIFICATION",
    "EO",
    "FILE",
    "LABEL",
    "MLM",
    "ML_AOI",
    "PROCESSING",
    "PROJECTION",
    "RASTER",
    "SCHEMA_URI",
    "schema",
]

_PUBLISHED = "https://stac-extensions.github.io"
CLASSIFICATION = f"{_PUBLISHED}/classification/v1.1.0/schema.json"
EO = f"{_PUBLISHED}/eo/v2.0.0/schema.json"
FILE = f"{_PUBLISHED}/file/v2.1.0/schema.json"
LABEL = f"{_PUBLISHED}/label/v1.0.1/schema.json"
ML_AOI = f"{_PUBLISHED}/ml-aoi/v0.2.0/schema.json"
MLM = f"{_PUBLISHED}/mlm/v1.5.2/schema.json"
PROCESSING = f"{_PUBLISHED}/processing/v1.2.0/schema.json"
PROJECTION = f"{_PUBLISHED}/projection/v2.0.0/schema.json"
RASTER = f"{_PUBLISHED}/raster/v2.0.0/schema.json"

SCHEMA_URI = "https://eoaug.example/stac/v1.0.0/schema.json"
"""Identifier of the schema of the ``eoaug:`` fields, which `schema` returns. Items do not list it among their
``stac_extensions``: nobody serves it, and validators on the network would refuse them. Those of 0.1.0 do."""


def schema() -> dict[str, Any]:
    """Return the JSON schema of the ``eoaug:`` fields, which `SCHEMA_URI` identifies."""
    path = resources.files(__package__).joinpath("schema/eoaug-v1.0.0.json")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
