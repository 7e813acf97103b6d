"""Imported by processes that others are forked from: everything that a job imports and loads on its way, once for all."""

from __future__ import annotations

import io

import distributed
import PIL.Image
import pystac.validation
import tqdm.auto

import eoaug
import eoaug.jobs.runner
import eoaug.jobs.worker
import eoaug.stac.publish
import tests.jobs.conftest
from eoaug.testing import scene

__all__ = ["distributed", "pystac", "tests", "tqdm"]

eoaug.super_resolve(scene((8, 8), dates=1, bands=("red",)), factor=2, generator="classical")
PIL.Image.new("RGB", (8, 8)).save(io.BytesIO(), "png")
