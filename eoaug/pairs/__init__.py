"""Pairs of images with the truth about what changed between them."""
