"""Draws the pictures of README.md and docs/models.md: the example street as the package labels it.

python tools/readme_pictures.py
"""

from __future__ import annotations

from pathlib import Path

import torchseg_zoo as tsz
from torchseg_zoo.data.image import read_image, write_png

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
STREET = ROOT / "examples" / "street.png"


def main(folder: Path = IMAGES) -> None:
    """Writes the three of them."""
    result = tsz.predict(tsz.bisenet_x39(pretrained="camvid"), STREET)
    write_png(folder / "street.png", read_image(STREET))
    result.save(folder / "street_overlay.png")
    result.save_confidence(folder / "street_confidence.png")


if __name__ == "__main__":
    main()
