"""Generators: what fills a cube\x27s holes."""
