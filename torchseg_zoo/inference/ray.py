"""A folder of pictures on a Ray cluster, by the same worker that one process uses.

Needs the extra ``ray`` (``pip install torchseg-zoo[ray]``). Pictures and results lie in folders
that every machine of the cluster sees under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchseg_zoo.errors import ArgumentError, MissingExtraError, ZooError
from torchseg_zoo.inference.batch import BatchReport, describe_run, record_name
from torchseg_zoo.inference.jobs import Job, Labelled, label_job, plan_jobs
from torchseg_zoo.inference.predictor import Predictor
from torchseg_zoo.inference.record import BatchRecord

if TYPE_CHECKING:
    from torchseg_zoo.models.base import SegmentationModel

__all__ = ["PictureWorker", "predict_files"]


class PictureWorker:
    """What an actor runs: a model prepared once, then batches of jobs.

    Usable in a pipeline of your own: ``dataset.map_batches(PictureWorker, ...)`` over rows with
    ``number``, ``source`` (a path) and ``targets`` (a path per kind of result).

    Args:
        load: makes the model in the actor's process; it must be picklable, like a function of a
            module or ``functools.partial(create_model, "bisenet_x39", pretrained="camvid")``.
        device: as in ``Predictor``.
        threads: CPU threads of each actor; ``None`` leaves PyTorch's choice.
    """

    def __init__(
        self,
        load: Callable[[], SegmentationModel],
        device: str | None = None,
        threads: int | None = None,
    ) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self._predictor = Predictor(load(), device=device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Rows with ``number``, ``source`` and ``targets`` → ``number`` and ``outcome``."""
        outcomes = []
        for source, targets in zip(batch["source"], batch["targets"], strict=True):
            paths = {str(kind): Path(target) for kind, target in targets.items() if target}
            outcomes.append(label_job(self._predictor, Job(Path(source), paths)))
        return {"number": list(batch["number"]), "outcome": outcomes}


def predict_files(
    load: Callable[[], SegmentationModel],
    pictures: Sequence[Path],
    out: str | Path,
    *,
    labels: bool = False,
    confidence: bool = False,
    resume: bool = False,
    actors: int = 2,
    cpus_per_actor: float = 1,
    gpus_per_actor: float = 0,
    batch_size: int = 8,
) -> BatchReport:
    """Labels pictures with Ray Data's ``map_batches`` and a pool of actors.

    Runs on the cluster that ``ray.init`` was called for, or starts one on this machine. An actor
    that dies is replaced and its pictures are labelled again; results are written whole or not at
    all, so doing a picture twice does no harm.

    Args:
        load: makes the model; see ``PictureWorker``.
        pictures: files, as in ``inference.batch.predict_files`` like all that is not named here.
        actors: processes that label, each with a model.
        cpus_per_actor: CPU cores, and threads, that an actor takes.
        gpus_per_actor: GPUs that an actor takes; above 0 the model runs on CUDA.
        batch_size: pictures that an actor is handed at a time; what is lost when it dies.

    Raises:
        MissingExtraError: if Ray is not installed.
        ArgumentError, DataError, ResumeError: as ``inference.batch.predict_files``.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(
            "labelling on a cluster needs Ray", fix="pip install 'torchseg-zoo[ray]'"
        ) from error
    if min(actors, batch_size) < 1:
        raise ArgumentError("actors and batch_size are at least 1", where="actors, batch_size")
    jobs = plan_jobs(pictures, out, labels=labels, confidence=confidence)
    run = describe_run(load(), labels=labels, confidence=confidence)
    outcomes: dict[int, Labelled | ZooError] = {}
    with BatchRecord(Path(out) / record_name(None), run, resume=resume) as record:
        for number, job in enumerate(jobs):
            if finished := record.finished(job):
                outcomes[number] = finished
        resumed = len(outcomes)
        rows = [_row(number, job) for number, job in enumerate(jobs) if number not in outcomes]
        if rows:
            results = ray.data.from_items(rows).map_batches(
                PictureWorker,
                fn_constructor_kwargs={
                    "load": load,
                    "device": "cuda" if gpus_per_actor else "cpu",
                    "threads": max(1, int(cpus_per_actor)),
                },
                batch_size=batch_size,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=actors),
                num_cpus=cpus_per_actor,
                num_gpus=gpus_per_actor,
            )
            for row in results.iter_rows():
                job, outcome = jobs[int(row["number"])], row["outcome"]
                if isinstance(outcome, Labelled):  # with the names as they were given
                    outcome = Labelled(job.source, tuple(job.targets.values()), outcome.summary)
                outcomes[int(row["number"])] = outcome
                record.add(job, outcome)
    ordered = [outcomes[number] for number in range(len(jobs))]
    return BatchReport(
        tuple(outcome for outcome in ordered if isinstance(outcome, Labelled)),
        tuple(outcome for outcome in ordered if isinstance(outcome, ZooError)),
        resumed,
    )


def _row(number: int, job: Job) -> dict[str, Any]:
    return {
        "number": number,
        "source": str(job.source.absolute()),
        "targets": {kind: str(target.absolute()) for kind, target in job.targets.items()},
    }
