"""The inner loops of the interpolations, compiled by numba."""
