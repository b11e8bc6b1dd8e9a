"""mmsegmentation 1.x as a peer, on its pure-Python ``mmcv-lite``.

pip install mmsegmentation==1.2.2 mmengine 'mmcv-lite<2.2' ftfy regex
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
import warnings
from typing import Any

from torch import Tensor, nn

_NORM = {"type": "BN", "requires_grad": True}
_LOSS = {"type": "CrossEntropyLoss"}


class _NotCompiled:
    """In place of a compiled operator: importable, of no use."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass


def _registry() -> Any:
    """mmseg's registry of models, past the compiled operators that these nets never use."""

    def operator(name: str) -> type[_NotCompiled]:
        if name.startswith("__"):  # what the import system and `inspect` ask for
            raise AttributeError(name)
        return _NotCompiled

    operators = types.ModuleType("mmcv.ops")
    operators.__spec__ = importlib.machinery.ModuleSpec("mmcv.ops", None)
    operators.__getattr__ = operator  # type: ignore[method-assign]
    sys.modules.setdefault("mmcv.ops", operators)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mmseg.models
        from mmseg.registry import MODELS

        del mmseg
    return MODELS


def _head(kind: str, in_channels: int, channels: int, **options: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "in_channels": in_channels,
        "channels": channels,
        "num_classes": 19,
        "dropout_ratio": 0.1,
        "norm_cfg": _NORM,
        "align_corners": False,
        "loss_decode": _LOSS,
        **options,
    }


def _build(backbone: dict[str, Any], head: dict[str, Any], aux: Any) -> nn.Module:
    registry = _registry()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = registry.build(
            {
                "type": "EncoderDecoder",
                "backbone": backbone,
                "decode_head": head,
                "auxiliary_head": aux,
                "test_cfg": {"mode": "whole"},
            }
        )
    return model.eval()


def pspnet_r50() -> nn.Module:
    """PSPNet-R50 at output stride 8, 19 classes, random weights."""
    backbone = {
        "type": "ResNetV1c",
        "depth": 50,
        "num_stages": 4,
        "out_indices": (0, 1, 2, 3),
        "dilations": (1, 1, 2, 4),
        "strides": (1, 2, 1, 1),
        "norm_cfg": _NORM,
        "norm_eval": False,
        "style": "pytorch",
        "contract_dilation": True,
    }
    return _build(
        backbone,
        _head("PSPHead", 2048, 512, in_index=3, pool_scales=(1, 2, 3, 6)),
        _head("FCNHead", 1024, 256, in_index=2, num_convs=1, concat_input=False),
    )


def bisenet_r18() -> nn.Module:
    """BiSeNetV1-R18, 19 classes, random weights."""
    resnet = {
        "type": "ResNet",
        "depth": 18,
        "num_stages": 4,
        "out_indices": (0, 1, 2, 3),
        "dilations": (1, 1, 1, 1),
        "strides": (1, 2, 2, 2),
        "norm_cfg": _NORM,
        "norm_eval": False,
        "style": "pytorch",
        "contract_dilation": True,
    }
    backbone = {
        "type": "BiSeNetV1",
        "in_channels": 3,
        "context_channels": (128, 256, 512),
        "spatial_channels": (64, 64, 64, 128),
        "out_indices": (0, 1, 2),
        "out_channels": 256,
        "backbone_cfg": resnet,
        "norm_cfg": _NORM,
        "align_corners": False,
        "init_cfg": None,
    }
    one = {"num_convs": 1, "concat_input": False}
    return _build(
        backbone,
        _head("FCNHead", 256, 256, in_index=0, **one),
        [_head("FCNHead", 128, 64, in_index=index, **one) for index in (1, 2)],
    )


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Whole-picture logits at the size of x, as mmseg's ``whole`` mode makes them."""
    size = tuple(x.shape[-2:])
    about = {"ori_shape": size, "img_shape": size, "pad_shape": size}
    result: Tensor = model.encode_decode(x, [about] * len(x))  # type: ignore[operator]
    return result
