"""Make ``catalogs/generators``: the generators whose weights ship, as STAC items of the MLM extension.

    python catalogs/make_generators.py
    python catalogs/make_generators.py --evaluation FOLDER

Run it whenever the weights or the card have changed; a test compares. With the folder of an `eoaug evaluate` it also
puts that evaluation's summary and some of its pictures into ``MODEL_CARD.md``.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from PIL import Image

from eoaug.stac.integrity import write_json
from eoaug.stac.model_item import embedded_item

HERE = Path(__file__).resolve().parent
TARGET = HERE / "generators"
PICTURES = ("inpaint-with-dates", "x2", "x4", "inpaint", "next-date", "variations", "synthesis")
"""Contact sheets of an evaluation, from its best results to its worst."""


def make_item() -> dict[str, Any]:
    """Describe the embedded generator; the weights are those of this checkout."""

    def address(weights: Path) -> str:
        # The package may be installed elsewhere; its folders are the same as in this checkout.
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


def fill_card(evaluation: Path) -> None:
    """Put the summary and the pictures of an evaluation into the model card."""
    card = TARGET / "MODEL_CARD.md"
    table = (evaluation / "table.md").read_text()
    rows = re.findall(r"^\|.*$", table.split("## Summary")[1].split("\n## ")[0], flags=re.MULTILINE)
    before, rest = card.read_text().split("<!-- table -->\n")
    after = rest.split("<!-- end of table -->\n")[1]
    body = "\n".join(rows)
    card.write_text(f"{before}<!-- table -->\n{body}\n<!-- end of table -->\n{after}")
    for name in PICTURES:
        with Image.open(evaluation / f"{name}.png") as picture:
            # A palette of 200 colours is a third of the size and looks the same.
            picture.convert("RGB").quantize(200).save(TARGET / f"{name}.png", optimize=True)


def main() -> None:
    """Write both documents, and on demand the figures of the model card."""
    parser = argparse.ArgumentParser(description="Make catalogs/generators.")
    parser.add_argument("--evaluation", type=Path, help="folder that `eoaug evaluate embedded` wrote")
    evaluation = parser.parse_args().evaluation
    TARGET.mkdir(exist_ok=True)
    if evaluation is not None:
        fill_card(evaluation)
    write_json(TARGET / "embedded.json", make_item())
    write_json(TARGET / "catalog.json", make_catalog())
    print(f"{TARGET}: embedded.json, catalog.json")


if __name__ == "__main__":
    main()
