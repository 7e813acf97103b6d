"""Make ``catalogs/generators``: the generators whose weights ship, as STAC items of machine-learning models.

    python catalogs/make_generators.py

Run it whenever the weights or the card have changed; a test compares.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from eoaug.stac.catalog import write_json
from eoaug.stac.model_item import embedded_item

HERE = Path(__file__).resolve().parent
TARGET = HERE / "generators"


def make_item() -> dict[str, Any]:
    """Describe the embedded generator; the weights are those of this checkout."""

    def address(weights: Path) -> str:
        # The package may be installed elsewhere: its files lie here as they lie there.
        here = HERE.parent.joinpath("eoaug", "weights", weights.parent.name, weights.name)
        return Path(os.path.relpath(here, TARGET)).as_posix()

    item = embedded_item(address)
    links = [{"rel": rel, "href": "./catalog.json", "type": "application/json"} for rel in ("root", "parent")]
    return {**item, "links": links}


def make_catalog() -> dict[str, Any]:
    """Describe the catalog around it."""
    return {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": "eoaug-generators",
        "title": "eoaug generators",
        "description": "Generators whose weights ship with eoaug, as items of the STAC extension MLM.",
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            {"rel": "item", "href": "./embedded.json", "type": "application/geo+json"},
        ],
    }


def main() -> None:
    """Write both documents in place of those that are there."""
    TARGET.mkdir(exist_ok=True)
    write_json(TARGET / "embedded.json", make_item())
    write_json(TARGET / "catalog.json", make_catalog())
    print(f"{TARGET}: embedded.json, catalog.json")


if __name__ == "__main__":
    main()
