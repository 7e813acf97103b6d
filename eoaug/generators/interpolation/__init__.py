"""Classical interpolation in space and time: numpy and scipy, no weights."""
