"""Readers of learning cubes."""
