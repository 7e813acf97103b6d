"""Jobs: a verb over every item of a catalog, resumable."""
