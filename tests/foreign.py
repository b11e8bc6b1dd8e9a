"""Checkpoints of other projects, made from the goldens: real files in each project's wrapping."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden import procedural
from golden.reading import State, arrays_of, record_of, state_of
from torch import Tensor

from torchseg_zoo.data.labels import generic_labels
from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.models.base import family
from torchseg_zoo.weights.convert import convert
from torchseg_zoo.weights.manifest import Checkpoint, Source

TAG = "testset.foreign"


def _parallel(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@dataclass(frozen=True)
class Foreign:
    """One golden file as its project would have released it.

    Args:
        layout: naming scheme.
        wrap: state dict → what is saved.
        legacy: saved as PyTorch before 1.6 did.
        factory: the one to use, where the converter's name has none.
        config: what shapes cannot tell.
    """

    layout: str
    wrap: Callable[[State], Any]
    legacy: bool = False
    factory: str = ""
    config: dict[str, Any] = field(default_factory=dict)


FOREIGN = {
    "torchseg/bisenet_x39": Foreign(
        "torchseg", lambda state: {"model": _parallel(state), "epoch": 80, "iteration": 1}
    ),
    "mmseg/bisenetv1_r18": Foreign(
        "mmseg",
        lambda state: {
            "meta": {
                "epoch": np.int64(3),
                "CLASSES": ("road", "person"),
                "PALETTE": np.zeros((19, 3), np.uint8),
                "seed": np.array(7),
                "config": "model = dict()",
            },
            "state_dict": OrderedDict(state),
        },
    ),
    "torchvision/fcn_resnet50": Foreign("torchvision", OrderedDict, legacy=True),
    "other/deeplabv3_resnet50_vainf": Foreign(
        "vainf",
        lambda state: {
            "cur_itrs": 30000,
            "model_state": state,
            "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
            "best_score": np.float64(0.7),
        },
        config={"backbone_options": {"output_stride": 16}},
    ),
    "other/deeplabv3plus_resnet101_jfzhang": Foreign(
        "jfzhang95", lambda state: {"epoch": 1, "state_dict": state, "best_pred": np.float32(0.5)}
    ),
    "other/denseaspp_densenet121_os8": Foreign("denseaspp", _parallel, legacy=True),
    "other/encnet_resnet50s_plain": Foreign("encoding", dict),
    "other/ocnet_base_oc_resnet50": Foreign("openseg", _parallel, factory="ocnet_base_r101"),
    "other/psanet_resnet50_collect": Foreign(
        "semseg", lambda state: {"epoch": 100, "state_dict": _parallel(state)}
    ),
}


def save(name: str, path: Path) -> State:
    """Writes the golden as a released file; its bare state dict."""
    state, how = state_of(name), FOREIGN[name]
    torch.save(how.wrap(state), path, _use_new_zipfile_serialization=not how.legacy)
    return state


def entry_of(
    name: str, state: State, url: str, file: Path | None = None, **more: Any
) -> Checkpoint:
    """The manifest's entry for such a file; its digest is unknown unless ``file`` is given."""
    converted = convert(state, layout=FOREIGN[name].layout)
    config = family(converted.family).config_class.from_dict(
        {**converted.config, **FOREIGN[name].config}
    )
    known = {}
    if file is not None:
        data = file.read_bytes()
        known = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    fields = {
        "model": FOREIGN[name].factory or config.model,
        "tag": TAG,
        "config": json.loads(json.dumps(config.to_dict())),
        "sources": (Source("https", url),),
        "sha256": "",
        "size_bytes": None,
        "layout": FOREIGN[name].layout,
        "preprocess": Preprocess(),
        "labels": generic_labels(config.num_classes),
        "licenses": {"code": "MIT", "weights": "not stated", "dataset": "research only"},
        "origin": "a test",
    }
    return Checkpoint(**{**fields, **known, **more})


def golden_logits(name: str, logits: Tensor, low: Tensor) -> tuple[np.ndarray, np.ndarray, float]:
    """Our main logits and the golden's, at the places that it holds, and the tolerance.

    Args:
        name: of the golden.
        logits: at input size.
        low: at the head's stride.
    """
    record = record_of(name)
    arrays = arrays_of(name)
    if name.startswith("torchseg/"):
        case = record["cases"][0]
        value = torch.nn.functional.interpolate(
            low, scale_factor=8, mode="bilinear", align_corners=True
        )
        value = value.log_softmax(1) if case["log_softmax"] else value
        step = case["stride"]
        return value[:, :, ::step, ::step].numpy(), arrays["out"], 5e-4
    if not name.startswith("other/"):
        key = "final" if "final" in record["outputs"] else "final.out"
        expected = record["outputs"][key]
        got = eval(f"value{expected['saved']}", {"value": logits.numpy()})  # our own index
        return got, arrays[key], 1e-4
    outputs = record["cases"][0]["outputs"]
    key = next(key for key in ("logits_up", "logits") if key in outputs)
    expected = outputs[key]
    if name.startswith("other/denseaspp"):
        logits = torch.nn.functional.interpolate(
            low, scale_factor=8, mode="bilinear", align_corners=True
        )
    step = tuple(slice(None, None, one) for one in expected["step"])
    return logits.numpy()[step], arrays[expected["array"]], 1e-4 * expected["std"]


def golden_input(name: str) -> Tensor:
    """What the golden's logits were computed from."""
    record = record_of(name)
    shape = record["cases"][0]["input_shape"] if "cases" in record else record["input_shape"]
    return torch.from_numpy(procedural.input_image(shape))
