"""Images lie where their number says, with gaps between them and none around."""

from __future__ import annotations

import numpy as np
import pytest

from eoaug.raster.montage import montage


@pytest.mark.parametrize(("count", "columns", "gap"), [(1, 1, 2), (4, 4, 2), (5, 2, 3), (3, 4, 1), (6, 3, 0)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_images_lie_row_by_row(count: int, columns: int, gap: int, dtype: type) -> None:
    images = [np.full((4, 6, 3), 10 + i).astype(dtype) for i in range(count)]
    sheet = montage(images, columns, gap_px=gap, fill=255)
    rows = -(-count // columns)
    assert sheet.dtype == dtype
    assert sheet.shape == (rows * (4 + gap) - gap, columns * (6 + gap) - gap, 3)
    expected = np.full(sheet.shape, 255, dtype)
    for i, image in enumerate(images):
        row, col = divmod(i, columns)
        expected[row * (4 + gap) : row * (4 + gap) + 4, col * (6 + gap) : col * (6 + gap) + 6] = image
    assert np.array_equal(sheet, expected)
