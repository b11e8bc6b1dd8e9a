"""What a model's file says of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchseg_zoo.models.base import SegmentationModel

__all__ = ["describe_model"]


def describe_model(model: SegmentationModel) -> dict[str, Any]:
    """JSON-able description that, with the tensors, rebuilds the model."""
    record = {
        "family": type(model).__name__,
        "config": model.config.to_dict(),
        "preprocess": model.preprocess.to_dict(),
        "labels": model.labels.to_dict(),
    }
    # Only where it was fitted, so that the files of others keep their bytes and digests.
    return record if model.temperature == 1 else record | {"temperature": model.temperature}
