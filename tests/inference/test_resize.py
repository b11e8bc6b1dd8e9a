"""Resizing of photos and of maps of numbers, whole and by bands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import procedural
from golden.reading import arrays_of, record_of
from pictures import photo

from torchseg_zoo.inference.resize import bands, resize_photo


def test_photos_are_resized_as_by_opencv() -> None:
    stored = arrays_of("torchseg/evaluator")
    image = torch.from_numpy(procedural.uint8_image(97, 131))
    for factor in (0.5, 0.75, 1.25, 1.5, 1.75):
        got = resize_photo(image, (round(97 * factor), round(131 * factor)), factor=factor)
        np.testing.assert_array_equal(got[::5, ::5].numpy(), stored[f"resize_{factor}"])
    for case in record_of("torchseg/evaluator")["cases"]:
        for scale in case.get("per_scale", ()):
            got = resize_photo(image, tuple(scale["scaled_shape"]), factor=scale["scale"])
            assert int(got.sum()) == scale["scaled_sum"]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("source", "target"),
    [((5, 7), (40, 51)), ((40, 51), (5, 7)), ((9, 9), (9, 30)), ((9, 9), (9, 9)), ((1, 1), (3, 1))],
)
def test_bands_are_parts_of_interpolate(
    source: tuple[int, int],
    target: tuple[int, int],
    align_corners: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torchseg_zoo.inference.resize._BAND_ELEMENTS", 7 * 2 * 3 * target[1])
    maps = torch.randn(2, 3, *source)
    want = F.interpolate(maps, target, mode="bilinear", align_corners=align_corners)
    rows, columns = slice(1, target[0] - 1), slice(0, max(1, target[1] - 2))
    got = torch.full((2, 3, target[0] - 2, columns.stop), torch.nan)
    for part, band in bands(maps, target, align_corners=align_corners, rows=rows, columns=columns):
        got[:, :, part] = band
    torch.testing.assert_close(got, want[:, :, rows, columns], atol=1e-5, rtol=1e-5)


def test_a_photo_of_its_own_size_is_left_alone() -> None:
    image = torch.from_numpy(photo())
    assert resize_photo(image, (24, 33), factor=1) is image
    assert resize_photo(image, (24, 33)) is image
    assert resize_photo(image, (12, 5)).shape == (12, 5, 3)
