"""Cubes: xarray objects in, plans over them, xarray objects and files out."""
