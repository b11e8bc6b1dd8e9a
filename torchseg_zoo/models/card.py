"""The model card that goes with published weights: what it is, how good, and on whose terms.

A score is never without its protocol, and only scores of the released checkpoint whose entry is
given are printed: training changes weights, and a model does not know its own mIoU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torchseg_zoo._version import __version__
from torchseg_zoo.errors import listed
from torchseg_zoo.weights.manifest import PERMISSIVE, Checkpoint, Metric

if TYPE_CHECKING:
    from torchseg_zoo.models.base import SegmentationModel

__all__ = ["collection_card", "eval_results", "model_card"]

_TASK = "image-segmentation"
_UNSAID = "not stated"
_REPO = "org/repo"
_CLASSES_SHOWN = 40


def model_card(
    model: SegmentationModel,
    checkpoint: Checkpoint | None = None,
    *,
    repo_id: str | None = None,
    responsible: str = "",
    declared: bool = False,
) -> str:
    """``README.md`` of a published model.

    Args:
        model: what is published.
        checkpoint: the manifest's entry, if the weights are those of a released checkpoint.
        repo_id: ``org/repo``, for the usage example.
        responsible: who answers for the publication, where the weights' licence is not stated.
        declared: the manifest names this file, so that the example can go by the model's name.
    """
    name = checkpoint.name if checkpoint else model.config.model
    parts = [
        "---\n" + _front_matter(name, checkpoint) + "---",
        f"# {name}",
        f"A {type(model).__name__} on `{model.config.backbone}` for semantic segmentation into "
        f"{model.num_classes} classes (`{model.labels.name}`), in the format of torchseg_zoo.",
        _usage(f'create_model("{name}")' if declared else f'from_pretrained("{repo_id or _REPO}")'),
        _metrics(checkpoint),
        _input(model),
        _licenses(checkpoint, responsible),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def collection_card(checkpoints: Sequence[Checkpoint]) -> str:
    """``README.md`` of a repository that holds several checkpoints, each in a folder of its name.

    Args:
        checkpoints: the manifest's entries, at least one.
    """
    rows = [
        f"| [{entry.name}](./{entry.name}) | "
        f"{_optional(score.miou_percent if (score := entry.metric()) else None)} | "
        + " | ".join(_cell(entry.licenses.get(part, _UNSAID)) for part in ("weights", "dataset"))
        + " |"
        for entry in checkpoints
    ]
    terms = {entry.licenses.get("weights", _UNSAID) for entry in checkpoints}
    parts = [
        "---\n" + _yaml_lines(_tags(terms.pop() if len(terms) == 1 else "see each card")) + "---",
        "# Semantic segmentation checkpoints in the format of torchseg_zoo",
        "Each folder holds the weights as safetensors, and a card with protocol and licences.",
        _usage(f'create_model("{checkpoints[0].name}")'),
        "\n".join(["| checkpoint | mIoU % | weights | data set |", "|---|---|---|---|", *rows]),
    ]
    return "\n\n".join(parts) + "\n"


def eval_results(checkpoint: Checkpoint) -> dict[str, str]:
    """Files of the hub's ``.eval_results`` folder: name → YAML, one per data set."""
    entries: dict[str, list[Any]] = {}
    for metric in checkpoint.metrics:
        entry = {
            "dataset": {"id": metric.dataset, "task_id": f"{metric.split}-{metric.mode}"},
            "value": metric.miou_percent,
            "notes": "; ".join(filter(None, ("mIoU in percent", metric.protocol, metric.source))),
        }
        entries.setdefault(metric.dataset, []).append(entry)
    return {
        f"{dataset}.yaml": "".join(f"- {_yaml(entry)}\n" for entry in found)
        for dataset, found in sorted(entries.items())
    }


def _yaml(value: object) -> str:
    """JSON is YAML, and needs no other library."""
    return json.dumps(value, ensure_ascii=False)


def _front_matter(name: str, checkpoint: Checkpoint | None) -> str:
    fields = _tags(checkpoint.licenses.get("weights", _UNSAID) if checkpoint else _UNSAID)
    if checkpoint and checkpoint.metrics:
        results = [_indexed(metric) for metric in checkpoint.metrics]
        fields["model-index"] = [{"name": name, "results": results}]
    return _yaml_lines(fields)


def _tags(terms: str) -> dict[str, object]:
    """What the hub sorts repositories by."""
    fields: dict[str, object] = {
        "library_name": "torchseg_zoo",
        "pipeline_tag": _TASK,
        "tags": ["torchseg_zoo", "semantic-segmentation", "pytorch"],
    }
    if terms in PERMISSIVE:
        return {**fields, "license": terms.lower()}
    return {**fields, "license": "other", "license_name": terms[:80]}


def _yaml_lines(fields: Mapping[str, object]) -> str:
    return "".join(f"{key}: {_yaml(value)}\n" for key, value in fields.items())


def _indexed(metric: Metric) -> dict[str, Any]:
    protocol = "; ".join(filter(None, (metric.mode, metric.protocol, metric.source)))
    scores = [
        {"type": "mean_iou", "name": f"mIoU, percent ({protocol})", "value": metric.miou_percent}
    ]
    if metric.pixel_accuracy_percent is not None:
        scores.append(
            {
                "type": "accuracy",
                "name": f"pixel accuracy, percent ({protocol})",
                "value": metric.pixel_accuracy_percent,
            }
        )
    return {
        "task": {"type": _TASK, "name": "Semantic segmentation"},
        "dataset": {"type": metric.dataset, "name": metric.dataset, "split": metric.split},
        "metrics": scores,
    }


def _usage(call: str) -> str:
    return f"""## Usage

```python
import torchseg_zoo as tsz  # pip install torchseg-zoo

model = tsz.{call}
tsz.predict(model, "street.png").save("street_overlay.png")
```

Written by torchseg_zoo {__version__}. Weights are safetensors; nothing is unpickled."""


def _metrics(checkpoint: Checkpoint | None) -> str:
    if checkpoint is None or not checkpoint.metrics:
        return "## Metrics\n\nNone measured."
    rows = [
        f"| {metric.dataset} {metric.split} | {metric.miou_percent:g} | "
        f"{_optional(metric.pixel_accuracy_percent)} | {metric.mode} | "
        f"{_cell(metric.protocol)} | {_cell(metric.source)} |"
        for metric in checkpoint.metrics
    ]
    head = "| data | mIoU % | pixel accuracy % | mode | protocol | measured by |"
    status = f"Status in the zoo: {checkpoint.status}. Trained by: {checkpoint.origin or _UNSAID}."
    return "\n".join(["## Metrics", "", head, "|---|---|---|---|---|---|", *rows, "", status])


def _optional(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _input(model: SegmentationModel) -> str:
    preprocess = model.preprocess
    classes = listed(model.labels.classes, _CLASSES_SHOWN)
    return f"""## Input and classes

RGB pictures, scaled to 0..1; mean {list(preprocess.mean)}, std {list(preprocess.std)};
`predict` does it. Classes, from index 0: {classes}."""


def _licenses(checkpoint: Checkpoint | None, responsible: str) -> str:
    given = checkpoint.licenses if checkpoint else {}
    rows = [f"- {part}: {given.get(part, _UNSAID)}" for part in ("weights", "code", "dataset")]
    if responsible:
        rows += ["", f"{_cell(responsible)} takes responsibility for publishing these weights."]
    return "\n".join(["## Licences", "", "A repository's licence is not the weights'.", "", *rows])
