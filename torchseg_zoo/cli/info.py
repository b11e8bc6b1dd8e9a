"""``torchseg-zoo info``: what a model is, costs, and where its weights come from."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from torchseg_zoo.cli._options import parse_size
from torchseg_zoo.weights import terms

if TYPE_CHECKING:
    from torchseg_zoo.models.base import SegmentationModel
    from torchseg_zoo.weights.manifest import Checkpoint

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb."""
    parser = verbs.add_parser(
        "info",
        help="parameters, work, strides, checkpoints, licences and citation of a model",
        description="Describes a model. Parameters and multiply-accumulates are counted; weights "
        "are neither made nor fetched.",
    )
    parser.add_argument(
        "model", metavar="MODEL[.TAG]", help="a model, or one of its released checkpoints"
    )
    parser.add_argument(
        "--size", type=parse_size, metavar="HxW", help="count the work at this size"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import torch

    from torchseg_zoo.models.base import family
    from torchseg_zoo.models.summary import summary
    from torchseg_zoo.registry import model_factory
    from torchseg_zoo.weights import manifest

    name, _, tag = options.model.partition(".")
    factory = model_factory(name)
    checkpoint = manifest.find(name, tag) if tag else None
    with torch.device("meta"):
        model: SegmentationModel = factory()
        if checkpoint is not None:
            cls = family(type(model).__name__)
            model = cls(cls.config_class.from_dict(checkpoint.config))
    if checkpoint is not None:
        model.preprocess = checkpoint.preprocess
    counted = summary(model, size=options.size)

    height, width = counted.size
    rule = model.input_rule
    sizes = (
        f"{rule.fixed[0]}×{rule.fixed[1]} only"
        if rule.fixed
        else f"multiples of {rule.multiple}"
        if rule.multiple > 1
        else "any"
    )
    _print(
        {
            "model": f"{options.model} ({counted.family})",
            "about": (factory.__doc__ or "").strip().splitlines()[0],
            "backbone": f"{counted.backbone}, maps of {counted.channels} channels "
            f"at strides {counted.strides}",
            "classes": f"{counted.num_classes}",
            "parameters": f"{counted.parameters:,} ({counted.inference_parameters:,} without "
            "auxiliary heads)",
            "work": f"{counted.gmacs:.2f} GMACs at {height}×{width}",
            "logits": f"at stride {counted.head_stride:g}; auxiliary heads: "
            f"{', '.join(counted.aux_heads) or 'none'}",
            "input sizes": sizes,
            "preprocess": model.preprocess.describe(),
        }
    )
    entries = [checkpoint] if checkpoint is not None else manifest.list_checkpoints(name)
    print(f"\ncheckpoints: {'none released' if not entries else ''}")
    for entry in entries:
        _print_checkpoint(entry)
    for absent in manifest.unreleased():
        if absent.model == name:
            print(f"  {name}.{absent.tag} is not to be had: {absent.why}; {absent.fix}")
    if model.paper is not None:
        print(f"\npaper: {model.paper.title}, {model.paper.venue}, {model.paper.url}\n")
        print(model.paper.bibtex())
    return 0


def _print_checkpoint(entry: Checkpoint) -> None:
    print(
        f"  {entry.name}  [{entry.status}: {terms.STATUS_MEANINGS[entry.status]}]  {entry.origin}"
    )
    for metric in entry.metrics:
        where = f"{metric.dataset} {metric.split} {metric.mode}".strip()
        print(f"    {metric.miou_percent:.2f} % mIoU, {where}: {metric.protocol or metric.source}")
        if "miou_percent" in metric.paper:
            print(f"      in the paper: {metric.paper['miou_percent']:.2f} % mIoU")
    for part, what in terms.PARTS.items():
        print(f"    licence of the {what}: {entry.licenses.get(part) or 'not stated'}")
    if entry.note:
        print(f"    note: {entry.note}")


def _print(rows: dict[str, str]) -> None:
    width = max(map(len, rows)) + 1
    for name, value in rows.items():
        print(f"{name + ':':<{width}} {value}")
