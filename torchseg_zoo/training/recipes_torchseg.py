"""TorchSeg's runs, every number as its configuration files have it.

Common to all: SGD with momentum 0.9, poly schedule of power 0.9 per step, batch norm over all
processes, OHEM on each process's own pixels, the mean colour around small pictures. An epoch is a
fixed number of steps there, not a pass over the data; evaluation adds up overlapping windows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torchseg_zoo.training.config import TrainConfig

__all__ = ["TORCHSEG"]

_SCALES_A = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
_SCALES_B = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_SCALES_C = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)

_SHARED = TrainConfig(
    continuous_scale=False,
    brightness=0.0,
    optimizer="sgd",
    momentum=0.9,
    poly_power=0.9,
    lr=1e-2,
    head_lr_multiplier=10.0,
    sync_bn=True,
    ohem_threshold=0.7,
    ohem_scope="process",
    batch_size=16,
    workers=24,
    seed=12345,
)
_BISENET = dataclasses.replace(
    _SHARED,
    data="cityscapes",
    pretrained_backbone=True,
    epochs=80,
    steps_per_epoch=1000,
    crop=(1024, 1024),
    scales=_SCALES_A,
    weight_decay=5e-4,
    criterion="ohem",
    ohem_min_kept=1 / 16,  # of the pixels that a process compares
    aux_weight=1.0,
    eval_window=(1024, 1024),
    eval_stride_rate=5 / 6,
    eval_every=50,
)
_SPEED: dict[str, Any] = {
    "crop": (768, 1536),
    "label_stride": 8,
    "aligned_labels": False,
    "eval_window": None,
    "eval_size": (768, 1536),
    "eval_label_size": (96, 192),
}
# ImageNet weights of resnet18 that were converted from GluonCV, as TorchSeg's were.
_R18: dict[str, Any] = {"backbone": "resnet18.gluon_in1k"}
_X39: dict[str, Any] = {
    "pretrained_backbone": False,
    "epochs": 140,
    "head_modules": ("head", "aux_heads", "ffm"),
}
_DFN = dataclasses.replace(
    _SHARED,
    model="dfn_r101",
    pretrained_backbone=True,
    scales=_SCALES_C,
    criterion="ce",
    aux_weight=1.0,
    border_weight=0.1,
    border_criterion="legacy",
    eval_stride_rate=2 / 3,
    eval_every=10,
)
_ADE20K = dataclasses.replace(
    _SHARED,
    data="ade20k",
    pretrained_backbone=True,
    epochs=120,
    steps_per_epoch=1263,
    crop=(480, 480),
    scales=_SCALES_C,
    weight_decay=1e-4,
    lr_lag=1,  # the original sets the rate after the step
    criterion="ce",
    aux_weight=0.4,
    eval_window=(480, 480),
    eval_stride_rate=2 / 3,
    eval_every=10,
    seed=304,
)


def bisenet_r18() -> TrainConfig:
    """BiSeNet-R18 on Cityscapes. Published: 76.28 % mIoU, 78.00 multi-scale and flip."""
    return dataclasses.replace(_BISENET, model="bisenet_r18", **_R18)


def bisenet_r18_speed() -> TrainConfig:
    """BiSeNet-R18.speed on Cityscapes, labels at 1/8. Published: 74.83 % mIoU, at 96×192."""
    return dataclasses.replace(_BISENET, model="bisenet_r18_speed", **_R18, **_SPEED)


def bisenet_r101() -> TrainConfig:
    """BiSeNet-R101 on Cityscapes. Published: 79.09 % mIoU, 80.39 multi-scale and flip."""
    return dataclasses.replace(_BISENET, model="bisenet_r101")


def bisenet_x39() -> TrainConfig:
    """BiSeNet-X39 on Cityscapes, from scratch. Published: 70.32 % mIoU, 72.06 multi-scale and flip.

    The base rate holds for all but the heads and the fusion module. With ImageNet weights of your
    own: ``--set backbone_weights=FILE``.
    """
    return dataclasses.replace(_BISENET, model="bisenet_x39", **_X39)


def bisenet_x39_speed() -> TrainConfig:
    """BiSeNet-X39.speed on Cityscapes, from scratch. Published: 68.51 % mIoU, at 96×192."""
    return dataclasses.replace(
        _BISENET, model="bisenet_x39_speed", **_X39, **_SPEED, scales=_SCALES_B
    )


def dfn_r101_voc() -> TrainConfig:
    """DFN on VOC with SBD. Published: 79.40 % mIoU, 81.40 multi-scale and flip.

    The border loss is the formula that the published run had (``legacy``), from which the border
    branch learns next to nothing; ``--set border_criterion=focal`` is the one that was meant.
    """
    return dataclasses.replace(
        _DFN,
        data="voc_aug",
        epochs=120,
        steps_per_epoch=330,
        batch_size=32,
        crop=(512, 512),
        lr=8e-4,
        weight_decay=1e-5,
        eval_window=(512, 512),
    )


def dfn_r101_cityscapes() -> TrainConfig:
    """DFN on Cityscapes without OHEM. Published: 79.09 % mIoU, 80.41 multi-scale and flip.

    On the border loss see ``dfn_r101.voc``.
    """
    return dataclasses.replace(
        _DFN,
        data="cityscapes",
        epochs=80,
        steps_per_epoch=1000,
        crop=(800, 800),
        lr=7e-4,
        weight_decay=1e-4,
        eval_window=(800, 800),
    )


def dfn_r101_cityscapes_ohem() -> TrainConfig:
    """DFN on Cityscapes with OHEM. Published: 79.16 % mIoU, 80.53 multi-scale and flip.

    Each process keeps at least 100,000 pixels.
    """
    return dataclasses.replace(dfn_r101_cityscapes(), criterion="ohem", ohem_min_kept=100_000)


def fcn32s_r101_voc() -> TrainConfig:
    """FCN-32s on VOC with SBD. Published: 71.26 % mIoU single scale."""
    return dataclasses.replace(
        _SHARED,
        model="fcn32s_r101",
        data="voc_aug",
        pretrained_backbone=True,
        init_fan="fan_out",
        epochs=60,
        steps_per_epoch=330,
        batch_size=32,
        crop=(512, 512),
        scales=_SCALES_C,
        lr_per_process=True,
        head_lr_multiplier=1.0,
        weight_decay=1e-4,
        criterion="ce",
        aux_weight=0.5,
        eval_window=(512, 512),
        eval_stride_rate=2 / 3,
        eval_every=1,
        workers=32,
        seed=304,
    )


def pspnet_r50() -> TrainConfig:
    """PSPNet-R50 on ADE20K. Published: 41.65 % mIoU, 79.74 % pixel accuracy, single scale."""
    return dataclasses.replace(_ADE20K, model="pspnet_r50")


def pspnet_r101() -> TrainConfig:
    """PSPNet-R101 on ADE20K. Published: 42.89 % mIoU, 80.55 % pixel accuracy, single scale."""
    return dataclasses.replace(_ADE20K, model="pspnet_r101")


def psanet_r50() -> TrainConfig:
    """PSANet-R50 on ADE20K. Published: 41.67 % mIoU, 80.09 % pixel accuracy, single scale."""
    return dataclasses.replace(_ADE20K, model="psanet_r50")


def psanet_r101() -> TrainConfig:
    """PSANet-R101 on ADE20K. Published: 43.04 % mIoU, 80.56 % pixel accuracy, single scale."""
    return dataclasses.replace(_ADE20K, model="psanet_r101")


TORCHSEG = {
    "bisenet_r18.cityscapes": bisenet_r18,
    "bisenet_r18_speed.cityscapes": bisenet_r18_speed,
    "bisenet_r101.cityscapes": bisenet_r101,
    "bisenet_x39.cityscapes": bisenet_x39,
    "bisenet_x39_speed.cityscapes": bisenet_x39_speed,
    "dfn_r101.voc": dfn_r101_voc,
    "dfn_r101.cityscapes": dfn_r101_cityscapes,
    "dfn_r101.cityscapes.ohem": dfn_r101_cityscapes_ohem,
    "fcn32s_r101.voc": fcn32s_r101_voc,
    "pspnet_r50.ade20k": pspnet_r50,
    "pspnet_r101.ade20k": pspnet_r101,
    "psanet_r50.ade20k": psanet_r50,
    "psanet_r101.ade20k": psanet_r101,
}
