"""Semantic segmentation models with released weights: predict, evaluate, train, deploy.

    import torchseg_zoo as tsz

    model = tsz.bisenet_x39(pretrained="camvid")
    tsz.predict(model, "street.png").save("street_overlay.png")

Names are imported when they are first used: importing the package loads neither torch nor timm.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from torchseg_zoo._version import __version__
from torchseg_zoo.registry import create_model, list_models, model_factory, register_model
from torchseg_zoo.weights.manifest import list_checkpoints

if TYPE_CHECKING:
    from torchseg_zoo.data.labels import LabelSet
    from torchseg_zoo.data.preprocess import Preprocess
    from torchseg_zoo.evaluation.calibration import calibrate
    from torchseg_zoo.evaluation.evaluate import evaluate
    from torchseg_zoo.inference.predict import predict
    from torchseg_zoo.inference.prediction import Prediction
    from torchseg_zoo.inference.predictor import Predictor
    from torchseg_zoo.models import *  # noqa: F403
    from torchseg_zoo.models.base import SegmentationModel
    from torchseg_zoo.models.checkpoint import load_model, model_from_state_dict, save_model
    from torchseg_zoo.models.hub import from_pretrained
    from torchseg_zoo.models.summary import summary
    from torchseg_zoo.training.config import TrainConfig
    from torchseg_zoo.training.loop import train

_LAZY = {
    "LabelSet": "torchseg_zoo.data.labels",
    "Prediction": "torchseg_zoo.inference.prediction",
    "Predictor": "torchseg_zoo.inference.predictor",
    "Preprocess": "torchseg_zoo.data.preprocess",
    "SegmentationModel": "torchseg_zoo.models.base",
    "TrainConfig": "torchseg_zoo.training.config",
    "calibrate": "torchseg_zoo.evaluation.calibration",
    "evaluate": "torchseg_zoo.evaluation.evaluate",
    "from_pretrained": "torchseg_zoo.models.hub",
    "load_model": "torchseg_zoo.models.checkpoint",
    "model_from_state_dict": "torchseg_zoo.models.checkpoint",
    "predict": "torchseg_zoo.inference.predict",
    "save_model": "torchseg_zoo.models.checkpoint",
    "summary": "torchseg_zoo.models.summary",
    "train": "torchseg_zoo.training.loop",
}

__all__ = [
    "LabelSet",
    "Prediction",
    "Predictor",
    "Preprocess",
    "SegmentationModel",
    "TrainConfig",
    "__version__",
    "calibrate",
    "create_model",
    "evaluate",
    "from_pretrained",
    "list_checkpoints",
    "list_models",
    "load_model",
    "model_from_state_dict",
    "predict",
    "register_model",
    "save_model",
    "summary",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    elif name in list_models():
        return model_factory(name)  # not kept: it may be registered again
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *list_models()})
