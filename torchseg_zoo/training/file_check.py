"""A look at some of the files before the first step."""

from __future__ import annotations

import shlex

from torchseg_zoo.data.check import quick_check
from torchseg_zoo.data.datasets.files import FileDataset
from torchseg_zoo.data.datasets.hf import TableDataset
from torchseg_zoo.training.build import Sets
from torchseg_zoo.training.config import TrainConfig

__all__ = ["check_files"]


def check_files(config: TrainConfig, sets: Sets) -> None:
    """Reads a few samples of each set that comes from files.

    Raises:
        DataError: for the first file that cannot be trained on, with how many others there are.
    """
    splits = {
        name: dataset
        for name, dataset in sets.named().items()
        if isinstance(dataset, FileDataset | TableDataset)
    }
    words = ["torchseg-zoo", "check-data", "--data", config.data]
    words += ["--val-data", config.val_data] if config.val_data else []
    words += ["--root", config.root] if config.root else []
    classes = config.classes or config.num_classes
    words += ["--classes", str(classes)] if classes else []
    quick_check(splits, advice=f"`{shlex.join(words)}`")
