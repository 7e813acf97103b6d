"""File formats: COG, Zarr, Icechunk."""
