"""The arguments of `change` on the command line."""

from __future__ import annotations

from collections.abc import Mapping

from eoaug.verbs.options import Option

__all__ = ["CHANGE_OPTIONS"]

CHANGE_OPTIONS: Mapping[str, Option] = {
    "label": Option(
        cli=str, required=True, metavar="NAME", help="Variable with the classes, e.g. landcover."
    ),
    "to": Option(
        cli=str,
        metavar="CLASS",
        help="Class that regions become, by name or number. [default: drawn by area]",
    ),
    "share": Option(cli=float, default=0.1, help="Share of the regions that change, 0 to 1."),
    "decoys": Option(
        cli=float, default=1.0, help="Decoys per changed region: regions redrawn as the class that they have."
    ),
    "blend_px": Option(
        cli=int, default=2, help="Pixels around a region in which its edge is blended, 0 to 16."
    ),
    "regions": Option(
        cli=str,
        metavar="NAME",
        help="Variable that numbers the regions. [default: connected pixels of a class]",
    ),
    "seed": Option(cli=int, default=0, help="Random seed."),
}
