"""Many pictures in one process: label them, write the results, go on past bad ones, resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from torchseg_zoo._version import __version__
from torchseg_zoo.errors import ArgumentError, ZooError
from torchseg_zoo.inference.jobs import Job, Labelled, label_job, plan_jobs, shard_of
from torchseg_zoo.inference.predict import predict
from torchseg_zoo.inference.prediction import Prediction
from torchseg_zoo.inference.predictor import Predictor
from torchseg_zoo.inference.record import BatchRecord
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.weights.save import tensors_digest

__all__ = ["BatchReport", "describe_run", "predict_files", "record_name"]


@dataclass(frozen=True)
class BatchReport:
    """What became of a batch.

    Args:
        done: pictures that are labelled, in order, those of an earlier run included.
        failed: one error per picture that could not be, each naming its file.
        resumed: how many of ``done`` an earlier run had finished.
    """

    done: tuple[Labelled, ...]
    failed: tuple[ZooError, ...]
    resumed: int = 0


def predict_files(
    model: SegmentationModel | Predictor,
    pictures: Sequence[Path],
    out: str | Path,
    *,
    labels: bool = False,
    confidence: bool = False,
    shard: tuple[int, int] | None = None,
    resume: bool = False,
    progress: bool = True,
) -> BatchReport:
    """Labels pictures and writes ``<name>_overlay.png`` for each.

    A picture that cannot be read does not stop the others. The folder also gets a record of what
    is done and what failed (see ``record_name``), unless there is a single picture.

    Args:
        model: the model; a ``Predictor`` is faster for more than a few pictures.
        pictures: files.
        out: folder, created if need be; or for a single picture a file name ending in ``.png``.
        labels: also write ``<name>_labels.png``, class indices with the palette.
        confidence: also write ``<name>_confidence.png``, 255 for certain.
        shard: (i, n): only every n-th picture from the i-th on, counted from 1. Every shard must be
            given the same pictures; together they do all of them, each once.
        resume: leave out what the record says is done, if the picture has not changed and its
            results are there; pictures that failed are tried again.
        progress: show a bar on stderr.

    Raises:
        ArgumentError: if ``out`` is a file name for several pictures, a result would replace a
            picture, or there is no such shard.
        DataError: if the folder cannot be written to, or its disk is full.
        ResumeError: if the record in the folder is of another model or other results.
    """
    jobs = shard_of(plan_jobs(pictures, out, labels=labels, confidence=confidence), shard)
    label: Callable[[Path], Prediction] = (
        model if isinstance(model, Predictor) else partial(predict, model)
    )
    kept: BatchRecord | nullcontext[None] = nullcontext()
    if shard is not None or resume or len(pictures) > 1:
        if Path(out).suffix.lower() == ".png" and not Path(out).is_dir():
            raise ArgumentError(
                "shards and resuming need a folder for the results", where="out", fix="name one"
            )
        run = describe_run(model, labels=labels, confidence=confidence)
        kept = BatchRecord(Path(out) / record_name(shard), run, resume=resume)
    outcomes: list[Labelled | ZooError] = []
    resumed = 0
    with kept as record:
        for job in tqdm(jobs, desc="predict", disable=not progress):
            finished = None if record is None else record.finished(job)
            resumed += finished is not None
            outcomes.append(finished or _labelled(label, job, record))
    done = tuple(outcome for outcome in outcomes if isinstance(outcome, Labelled))
    failed = tuple(outcome for outcome in outcomes if isinstance(outcome, ZooError))
    return BatchReport(done, failed, resumed)


def record_name(shard: tuple[int, int] | None) -> str:
    """Name of the record: ``predict.jsonl``, or ``predict-3-of-64.jsonl`` for a shard."""
    return "predict.jsonl" if shard is None else f"predict-{shard[0]}-of-{shard[1]}.jsonl"


def describe_run(
    model: SegmentationModel | Predictor, *, labels: bool, confidence: bool
) -> dict[str, Any]:
    """What the results of a batch depend on, beside the pictures: JSON-able."""
    mode, kind = None, "probability"
    if isinstance(model, Predictor):
        mode, network, digest = model.mode, model.model, model.weights_sha256
        kind = model.confidence
    else:
        network, digest = model, tensors_digest(model.state_dict())
    return {
        "model": network.config.model,
        "weights_sha256": digest,
        "mode": None if mode is None else mode.to_dict(),
        "results": ["overlay"] + ["labels"] * labels + ["confidence"] * confidence,
        "confidence": kind if confidence else None,
        "torchseg_zoo": __version__,
    }


def _labelled(
    label: Callable[[Path], Prediction], job: Job, record: BatchRecord | None
) -> Labelled | ZooError:
    outcome = label_job(label, job)
    if record is not None:
        record.add(job, outcome)
    return outcome
