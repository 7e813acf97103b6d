"""One way from a Dataset to its grid, for the verbs and for files."""

from __future__ import annotations

import numpy as np
import pytest
import rioxarray  # noqa: F401  (registers .rio)
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_zeros

from eoaug.cube.dimensions import spatial_dims
from eoaug.cube.grid_mapping import geobox_from_coords
from eoaug.cube.read import read_cube
from eoaug.errors import GridError
from eoaug.formats.georeference import geobox_of
from eoaug.testing import grid

UTM, DEGREES = grid((6, 8)), grid((6, 8), crs="EPSG:4326")
ROTATED = grid((6, 8), rotation_deg=30.0)


def cube_on(geobox: GeoBox) -> xr.Dataset:
    return xr.Dataset({"red": xr_zeros(geobox, dtype="float32")})


def both_ways(ds: xr.Dataset) -> list[GeoBox]:
    """The grid that verbs read, and the one that files are written with."""
    return [
        read_cube(ds).geobox,
        geobox_of(ds, attempt="writing")[0],
        geobox_of(ds.red, attempt="writing")[0],
    ]


@pytest.mark.parametrize("geobox", [UTM, DEGREES, ROTATED], ids=["utm", "degrees", "rotated"])
@pytest.mark.parametrize("rows", [slice(None), slice(2, 5), slice(3, 4)], ids=["whole", "crop", "one row"])
def test_crops_keep_their_grid(geobox, rows):
    ds = cube_on(geobox)
    names = spatial_dims(ds)
    for found in both_ways(ds.isel({names[0]: rows})):
        assert found.crs == geobox.crs
        assert found.shape == geobox[rows].shape
        np.testing.assert_allclose(tuple(found.affine), tuple(geobox[rows].affine), rtol=1e-12)


@pytest.mark.parametrize("shape", [(6, 1), (1, 8), (1, 1)])
@pytest.mark.parametrize("kind", [{}, {"crs": "EPSG:4326"}, {"rotation_deg": 30.0}])
def test_one_pixel_has_the_size_of_the_grid_mapping(shape, kind):
    geobox = grid(shape, **kind)
    for found in both_ways(cube_on(geobox)):
        np.testing.assert_allclose(tuple(found.affine), tuple(geobox.affine), rtol=1e-12)


@pytest.mark.parametrize("geobox", [UTM, ROTATED], ids=["utm", "rotated"])
def test_a_geotransform_is_enough(geobox):
    ds = cube_on(geobox)
    y, x = spatial_dims(ds)
    for found in both_ways(ds.drop_vars([y, x])):
        assert found == geobox


def test_a_single_pixel_without_a_size_is_refused():
    ds = cube_on(grid((1, 8)))
    del ds.spatial_ref.attrs["GeoTransform"]
    with pytest.raises(GridError, match="'y' is unknown"):
        geobox_of(ds, attempt="writing")


def test_files_need_a_georeference():
    bare = xr.Dataset({"red": (("y", "x"), np.zeros((3, 4)))})
    assert geobox_from_coords(bare, "y", "x") == (GeoBox((3, 4), Affine.identity(), None), False)
    with pytest.raises(GridError, match="writing: the cube has no coordinate reference system"):
        geobox_of(bare, attempt="writing")
    with pytest.raises(GridError, match="writing: the cube has neither coordinates"):
        geobox_of(bare.rio.write_crs("EPSG:32633").drop_vars(["x", "y"], errors="ignore"), attempt="writing")
    with pytest.raises(GridError, match="writing: no spatial dimensions among"):
        geobox_of(bare.rename(y="row", x="column"), attempt="writing")
