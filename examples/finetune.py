"""Fine-tune the embedded checkpoint on pictures and label maps of your own.

python examples/finetune.py DATA [--classes classes.txt] [--out runs/mine] [--epochs 40]

DATA holds train/images, train/labels, val/images and val/labels, or train.txt and val.txt as
`torchseg-zoo prepare folder` writes them. The same on the command line: docs/finetune.md.
"""

import argparse
import sys

import torchseg_zoo as tsz
from torchseg_zoo.data.check import check_data
from torchseg_zoo.data.datasets import open_dataset
from torchseg_zoo.data.datasets.classes import read_classes
from torchseg_zoo.errors import DataError

parser = argparse.ArgumentParser()
parser.add_argument("data", help="folder with the splits train and val")
parser.add_argument("--classes", help="class names, one in a line, unless classes.txt is in DATA")
parser.add_argument("--out", default="runs/mine")
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--crop", type=int, default=256, help="side of the training crops, in pixels")
options = parser.parse_args()

# What is wrong with the labels is cheaper to know now than after a night of training.
classes = read_classes(options.classes) if options.classes else None
splits = {
    split: open_dataset(options.data, split, None, classes=classes) for split in ("train", "val")
}
report = check_data(splits)
print(report.text())
if report.exit_code == DataError.exit_code:
    report.save(options.out + "-check")
    sys.exit(f"mend the errors first; the report is in {options.out}-check")

# The backbone and all but the classifiers start from the checkpoint.
config = tsz.TrainConfig(
    model="bisenet_x39.camvid",
    data=options.data,
    out=options.out,
    epochs=options.epochs,
    batch_size=options.batch_size,
    crop=(options.crop, options.crop),
    lr=5e-4,
    warmup_steps=20,
    class_weights="balanced",
    ema=0.99,
    patience=15,
)
result = tsz.train(config, train_set=splits["train"], val_set=splits["val"])
print(f"best after epoch {result.epoch}: mIoU {result.miou_percent:.1f} %, in {result.best}")

model = tsz.load_model(result.best)
scores = tsz.evaluate(model, splits["val"], progress=False)
for name, iou in zip(model.labels.classes, scores.iou_percent, strict=True):
    print(f"{name:<16} {iou:5.1f} %")

picture = splits["val"][0].image
print("overlay of a validation picture:", tsz.predict(model, picture).save("finetuned.png"))
