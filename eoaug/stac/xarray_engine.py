"""``xarray.open_dataset(source, engine="eoaug")``: `open_cube` where people and libraries expect it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import xarray as xr
from xarray.backends import BackendEntrypoint

from eoaug.errors import GridError

__all__ = ["EoaugEngine"]


class EoaugEngine(BackendEntrypoint):
    """Opens STAC items, collections, catalogs and APIs, and files, as cubes in physical units; see `open_cube`."""

    description: ClassVar[str] = "STAC catalogs and files as cubes in physical units, with labels and marks"
    url: ClassVar[str] = ""
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj", "drop_variables", "bands", "bbox", "datetime", "collections", "ids", "query", "groupby", "limit",
        "resolution", "crs", "resampling", "patch_url", "allow", "composite", "labels",
    )  # fmt: skip
    supports_groups = True

    def open_dataset(
        self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None, **arguments: Any
    ) -> xr.Dataset:
        """Return the cube; xarray adds its own ``chunks``.

        Raises
        ------
        EoaugError
            As for `open_cube`; also a source whose bands lie on several grids, which is a tree.
        """
        cube = _opened(filename_or_obj, **arguments)
        if isinstance(cube, xr.DataTree):
            raise GridError(
                f"{str(filename_or_obj)!r} has bands on several grids: {', '.join(cube.children)}",
                "open all of them with xarray.open_datatree(source, engine='eoaug'), or choose with bands= or resolution=",
            )
        result: xr.Dataset = cube.drop_vars(_names(drop_variables), errors="ignore")
        return result

    def open_datatree(
        self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None, **arguments: Any
    ) -> xr.DataTree:
        """Return a node per grid."""
        cube = _opened(filename_or_obj, **arguments)
        names = _names(drop_variables)
        if isinstance(cube, xr.DataTree):
            tree: xr.DataTree = cube.map_over_datasets(lambda node: node.drop_vars(names, errors="ignore"))
            return tree
        return xr.DataTree(cube.drop_vars(names, errors="ignore"))

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return False: other engines open files as they are, and this one converts them to physical units."""
        return False


def _names(drop_variables: str | Iterable[str] | None) -> list[str]:
    return [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())


def _opened(source: Any, **arguments: Any) -> Any:
    from eoaug.stac.open import (
        open_cube,  # xarray loads this module for whoever opens a file without naming an engine
    )

    return open_cube(source, **arguments)
