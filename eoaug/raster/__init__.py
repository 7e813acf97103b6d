"""Raster maths: bands, grids, tiles, noise, radiometry, sensors, masks. NumPy only."""
