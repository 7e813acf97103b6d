"""Tuning the land of the embedded generator on a training set."""
