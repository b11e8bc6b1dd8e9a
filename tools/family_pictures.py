"""Writes docs/images/families: the example street through one trained model of each family.

    python tools/family_pictures.py runs/*/best.safetensors

The runs are those of docs/camvid.md. Each file is named after its model's factory.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import torchseg_zoo as tsz
from torchseg_zoo.files import atomic_write

ROOT = Path(__file__).parents[1]
STREET = ROOT / "examples" / "street.png"
FOLDER = ROOT / "docs" / "images" / "families"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="+", help="file of a trained model")
    FOLDER.mkdir(exist_ok=True)
    for file in parser.parse_args().model:
        model = tsz.load_model(file)
        content = io.BytesIO()
        tsz.predict(model, STREET).overlay(legend=False).save(content, "JPEG", quality=80)
        path = FOLDER / f"{model.config.model}.jpg"
        atomic_write(path, lambda out, content=content: out.write(content.getvalue()))
        print(path)


if __name__ == "__main__":
    main()
