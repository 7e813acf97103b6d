"""The STAC floor: catalogs in, catalogs out."""
