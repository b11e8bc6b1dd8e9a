"""The network that is exported: picture bytes in, labels out."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchseg_zoo.errors import ExportError
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.types import Size

__all__ = ["InputLayout", "LabelNetwork", "Output", "Precision", "Tracing", "prepare_tracing"]

InputLayout = Literal["nhwc", "nchw", "float"]
"""``"nhwc"``: (N, H, W, 3) uint8, as decoders give pictures. ``"nchw"``: (N, 3, H, W) uint8.

``"float"``: (N, 3, H, W) float32, already normalised by the model's ``preprocess``.
"""

Output = Literal["labels", "labels+confidence", "logits", "head-logits"]
"""``"labels"``: (N, H, W) uint8. ``"logits"``: (N, K, H, W) float32 at input size.

``"labels+confidence"``: also (N, H, W) float32, the probability of each label, in 0..1.

``"head-logits"``: (N, K, H/s, W/s) float32 at the head's own stride, for timing the network alone.
"""

Precision = Literal["fp32", "fp16", "int8"]
"""Of the network itself. Normalising, resizing the logits and what follows are always float32.

``"int8"`` is for ONNX graphs and what is made of them; see ``export.quantize``.
"""

# Traced at a size that is no special case: not square, and no map has a side of 1.
_TRACED = (160, 224)


class LabelNetwork(nn.Module):
    """A fused copy of a model with all that lies between a picture's bytes and its labels.

    Normalisation comes before any padding, so that padded borders are zeros as in training. Sizes
    that the model's ``input_rule`` does not allow are padded to the next that it does, right and
    below, and cut off again.

    Args:
        model: left as it is.
        layout: what goes in.
        output: what comes out.
        precision: of the network.

    Raises:
        ExportError: if the model resizes its pictures, which is not in the graph, or takes other
            than three channels of bytes.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        model: SegmentationModel,
        *,
        layout: InputLayout = "nhwc",
        output: Output = "labels",
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        self.layout, self.output = layout, output
        self.model = copy.deepcopy(model).cpu().float().fuse(winograd=False)
        self.dtype = torch.float16 if precision == "fp16" else torch.float32
        self.model.to(self.dtype)
        scale, shift = map(torch.from_numpy, model.preprocess.scale_and_shift())
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])
        if model.preprocess.resize is not None:
            raise ExportError(
                "this checkpoint resizes every picture before the network",
                where=model.config.model,
                fix="set model.preprocess to one without resize, and feed pictures of that size",
            )

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """See ``InputLayout`` and ``Output`` for shapes and types."""
        x = self._normalised(image)
        height, width = x.shape[-2:]
        rule = self.model.input_rule
        if rule.multiple > 1:
            x = F.pad(x, (0, -width % rule.multiple, 0, -height % rule.multiple))
        logits: Tensor = self.model(x.to(self.dtype), upsample=False).float()
        if self.output == "head-logits":
            return logits
        logits = F.interpolate(
            logits,
            x.shape[-2:],
            mode="bilinear",
            align_corners=self.model.config.align_corners,
        )[..., :height, :width]
        if self.output == "logits":
            return logits
        labels = logits.argmax(1).to(torch.uint8)
        if self.output == "labels":
            return labels
        return labels, (logits / self.model.temperature).softmax(1).amax(1)

    def _normalised(self, image: Tensor) -> Tensor:
        if self.layout == "float":
            return image
        if self.layout == "nhwc":
            image = image.permute(0, 3, 1, 2)
        return image.float() * self.scale + self.shift

    def example(self, height: int, width: int, *, batch: int = 1) -> Tensor:
        """A zero input of the layout, for tracing."""
        channels = self.model.config.in_channels
        if self.layout == "nhwc":
            return torch.zeros(batch, height, width, channels, dtype=torch.uint8)
        dtype = torch.uint8 if self.layout == "nchw" else torch.float32
        return torch.zeros(batch, channels, height, width, dtype=dtype)

    def axes(self) -> tuple[int, int]:
        """Positions of height and width among the input's axes."""
        return (1, 2) if self.layout == "nhwc" else (2, 3)


@dataclass(frozen=True)
class Tracing:
    """A network with all that tracing it takes.

    Args:
        network: in evaluation mode, on the CPU.
        example: its input.
        moving: axis of the input → ``Dim.DYNAMIC``, for those of no fixed length.
        size: (height, width), or ``"dynamic"``.
    """

    network: LabelNetwork
    example: Tensor
    moving: dict[int, Any]
    size: Size | Literal["dynamic"]


def prepare_tracing(
    model: SegmentationModel,
    *,
    size: Size | Literal["dynamic"],
    batch: int | Literal["dynamic"],
    layout: InputLayout,
    output: Output,
    precision: Precision,
) -> Tracing:
    """The network and the input to trace it with; arguments as of ``export_onnx``.

    Raises:
        ExportError: if the model does not work at this size, or ``LabelNetwork`` refuses it.
    """
    size = _usable_size(model, size)
    network = LabelNetwork(model, layout=layout, output=output, precision=precision).eval()
    traced = _TRACED if size == "dynamic" else size
    example = network.example(*traced, batch=2 if batch == "dynamic" else batch)
    moving = dict.fromkeys(network.axes(), torch.export.Dim.DYNAMIC) if size == "dynamic" else {}
    if batch == "dynamic":
        moving[0] = torch.export.Dim.DYNAMIC
    return Tracing(network, example, moving, size)


def _usable_size(
    model: SegmentationModel, size: Size | Literal["dynamic"]
) -> Size | Literal["dynamic"]:
    fixed = model.input_rule.fixed
    if fixed is not None and size != fixed:
        raise ExportError(
            f"{model.config.model} works at {fixed[0]}×{fixed[1]} only",
            where=f"size {size if size == 'dynamic' else '{}×{}'.format(*size)}",
            fix=f"export it at {fixed[0]}×{fixed[1]}",
        )
    if size != "dynamic" and min(size) < 1:
        raise ExportError(f"{size} is no size", fix='give (height, width), or "dynamic"')
    return size
