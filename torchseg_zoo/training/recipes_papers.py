"""The recipes of papers, or of the code that is known for reproducing them.

Where a paper counts steps, an epoch here is 1,000 of them; where it counts epochs, the pictures of
its training set over its batch.
"""

from __future__ import annotations

import dataclasses

from torchseg_zoo.training.config import TrainConfig

__all__ = ["PAPERS"]

_SHARED = TrainConfig(
    pretrained_backbone=True,
    scales=(0.5, 2.0),
    continuous_scale=True,
    brightness=0.0,
    optimizer="sgd",
    momentum=0.9,
    poly_power=0.9,
    criterion="ce",
    sync_bn=True,
    eval_every=5,
    workers=8,
)
_CITYSCAPES_WEIGHTS = (
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
)  # fmt: skip


def deeplabv3_r101_voc() -> TrainConfig:
    """DeepLabV3-R101 on VOC with SBD: the paper's first 30,000 steps, at output stride 16.

    Published: 77.21 % mIoU at stride 16, 78.51 at stride 8, 79.77 multi-scale and flip. Its second
    30,000 steps, on train and val with frozen batch norms at stride 8, are not part of it.
    """
    return dataclasses.replace(
        _SHARED,
        model="deeplabv3_r101",
        backbone="resnet101.tv_in1k",
        output_stride=16,
        multi_grid=(1, 2, 4),
        data="voc_aug",
        epochs=30,
        steps_per_epoch=1000,
        batch_size=16,
        crop=(513, 513),
        lr=7e-3,
        weight_decay=1e-4,
    )


def deeplabv3plus_r101_voc() -> TrainConfig:
    """DeepLabV3+-R101 on VOC with SBD, at output stride 16, as pytorch-deeplab-xception has it.

    Published: 78.43 % mIoU there; 78.85 in the paper, with the recipe of ``deeplabv3_r101.voc``.
    """
    return dataclasses.replace(
        _SHARED,
        model="deeplabv3plus_r101",
        backbone="resnet101.tv_in1k",
        output_stride=16,
        multi_grid=(1, 2, 4),
        data="voc_aug",
        epochs=50,
        steps_per_epoch=661,
        batch_size=16,
        crop=(513, 513),
        lr=7e-3,
        head_lr_multiplier=10.0,
        weight_decay=5e-4,
    )


def denseaspp_d161_cityscapes() -> TrainConfig:
    """DenseASPP-D161 on Cityscapes. Published: 79.9 % mIoU single scale, 80.6 multi-scale.

    The paper lowers the rate once per epoch, and shifts brightness by up to 10 of 255 levels; here
    it is multiplied, by as much at a middle grey.
    """
    return dataclasses.replace(
        _SHARED,
        model="denseaspp_d161",
        data="cityscapes",
        epochs=80,
        steps_per_epoch=371,
        batch_size=8,
        crop=(512, 512),
        brightness=0.08,
        optimizer="adam",
        lr=3e-4,
        poly_per_epoch=True,
        weight_decay=1e-5,
    )


def encnet_r50_ade20k() -> TrainConfig:
    """EncNet-R50 on ADE20K. Published: 41.11 % mIoU multi-scale and flip (41.5 by the code)."""
    return dataclasses.replace(
        _SHARED,
        model="encnet_r50",
        data="ade20k",
        epochs=120,
        steps_per_epoch=1263,
        batch_size=16,
        crop=(480, 480),
        lr=1e-2,
        head_lr_multiplier=10.0,
        weight_decay=1e-4,
        aux_weight=0.2,
        presence_weight=0.2,
    )


def encnet_r101_ade20k() -> TrainConfig:
    """EncNet-R101 on ADE20K. Published: 44.65 % mIoU multi-scale and flip (44.4 by the code)."""
    return dataclasses.replace(encnet_r50_ade20k(), model="encnet_r101", crop=(576, 576))


def ocnet_base_r101_cityscapes() -> TrainConfig:
    """OCNet-base-R101 on Cityscapes. Published: 79.3 % mIoU single scale.

    The original starts from other ImageNet weights of the same network.
    """
    return dataclasses.replace(
        _SHARED,
        model="ocnet_base_r101",
        data="cityscapes",
        epochs=40,
        steps_per_epoch=1000,
        batch_size=8,
        crop=(769, 769),
        scales=tuple(round(0.5 + step / 10, 1) for step in range(17)),
        continuous_scale=False,
        lr=1e-2,
        weight_decay=5e-4,
        class_weights=_CITYSCAPES_WEIGHTS,
        aux_weight=0.4,
    )


def ocnet_pyramid_r101_cityscapes() -> TrainConfig:
    """OCNet-pyramid-R101 on Cityscapes. No score of it alone is published."""
    return dataclasses.replace(ocnet_base_r101_cityscapes(), model="ocnet_pyramid_r101")


def ocnet_asp_r101_cityscapes() -> TrainConfig:
    """OCNet-ASP-R101 on Cityscapes. Published: 79.5 % mIoU single scale."""
    return dataclasses.replace(ocnet_base_r101_cityscapes(), model="ocnet_asp_r101")


def ocnet_asp_r101_cityscapes_ohem() -> TrainConfig:
    """OCNet-ASP-R101 on Cityscapes with OHEM on the main head. Published: 80.4 % mIoU."""
    return dataclasses.replace(
        ocnet_asp_r101_cityscapes(),
        criterion="ohem",
        aux_criterion="ce",
        ohem_threshold=0.7,
        ohem_min_kept=100_000,
        ohem_scope="process",
    )


PAPERS = {
    "deeplabv3_r101.voc": deeplabv3_r101_voc,
    "deeplabv3plus_r101.voc": deeplabv3plus_r101_voc,
    "denseaspp_d161.cityscapes": denseaspp_d161_cityscapes,
    "encnet_r50.ade20k": encnet_r50_ade20k,
    "encnet_r101.ade20k": encnet_r101_ade20k,
    "ocnet_base_r101.cityscapes": ocnet_base_r101_cityscapes,
    "ocnet_pyramid_r101.cityscapes": ocnet_pyramid_r101_cityscapes,
    "ocnet_asp_r101.cityscapes": ocnet_asp_r101_cityscapes,
    "ocnet_asp_r101.cityscapes.ohem": ocnet_asp_r101_cityscapes_ohem,
}
