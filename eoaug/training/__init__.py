"""Training: cubes in, weights out."""
