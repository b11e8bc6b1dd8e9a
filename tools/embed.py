"""Puts a trained checkpoint into the package: scores it, copies it, writes its manifest entry.

    python tools/embed.py RUN/best.safetensors --data CAMVID --tag camvid

The run's recipe is read from ``last.safetensors`` beside the checkpoint; the score is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import open_dataset
from torchseg_zoo.data.label_sets import CAMVID
from torchseg_zoo.files import atomic_write
from torchseg_zoo.weights import manifest
from torchseg_zoo.weights.load import EMBEDDED, read_meta

LICENSES = {
    "code": "MIT",
    "weights": "terms of the training data could not be established: treat as non-commercial "
    "research only; the code's licence does not cover them; models fine-tuned from them may "
    "inherit this",
    "dataset": "CamVid: not stated",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", required=True, help="CamVid's folder")
    parser.add_argument("--tag", default="camvid")
    parser.add_argument(
        "--start", default="from scratch", help="what the run started from, in words"
    )
    options = parser.parse_args()

    model = tsz.load_model(options.checkpoint)
    model.labels = CAMVID  # with the raw values that files hold
    scores = tsz.evaluate(model, open_dataset(options.data, "val", model.labels))
    state = read_meta(options.checkpoint.with_name("last.safetensors"))
    name = f"{model.config.model}.{options.tag}"
    target = EMBEDDED / f"{name}.safetensors"
    tsz.save_model(model, target)
    content = target.read_bytes()

    entry = {
        "model": model.config.model,
        "tag": options.tag,
        "config": model.config.to_dict(),
        "sources": [{"kind": "embedded", "location": target.name}],
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "layout": "native",
        "preprocess": model.preprocess.to_dict(),
        "labels": model.labels.name,
        "metrics": [
            {
                "dataset": "camvid",
                "split": "val",
                "mode": "whole",
                "miou_percent": round(scores.miou_percent, 2),
                "pixel_accuracy_percent": round(scores.pixel_accuracy_percent, 2),
                "source": "measured by this project",
                "protocol": "101 pictures at 360x480, single scale, no flip, 11 classes, "
                "unlabelled pixels left out; the best of the evaluated epochs, selected on this "
                "split",
            }
        ],
        "licenses": LICENSES,
        "recipe": {
            **{
                key: value
                for key, value in state["config"].items()
                if key not in ("data", "out", "root", "device", "workers", "cache", "checkpoint")
            },
            "epochs_done": state["progress"]["epoch"],
            "best_epoch": state["progress"]["best_epoch"],
            "start": options.start,
        },
        "train_set": "camvid train, 367 pictures",
        "ohem": False,
        "origin": "torchseg_zoo",
        "status": "scored",
    }
    path = manifest.manifest_path()
    record = json.loads(path.read_text(encoding="utf-8"))
    others = [one for one in record["checkpoints"] if f"{one['model']}.{one['tag']}" != name]
    record["checkpoints"] = [*others, entry]
    atomic_write(path, lambda file: file.write(manifest.dump(record).encode()))
    print(f"{name}: {scores.miou_percent:.2f} % mIoU, {len(content):,} bytes -> {target}")


if __name__ == "__main__":
    main()
