"""Estimates of bands from other bands of the same date, and from other dates."""
