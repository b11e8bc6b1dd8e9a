"""Which sample comes when, and what is done to it: pure functions of (seed, epoch, position)."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from torchseg_zoo.data.label_map import check_label_values
from torchseg_zoo.data.sample import Dataset, Sample
from torchseg_zoo.data.transforms import Augmentation, generator, subsample
from torchseg_zoo.errors import ArgumentError, DataError, TrainError, ZooError
from torchseg_zoo.training.config import TrainConfig

__all__ = ["BatchLoader", "EpochBatches", "TrainingSamples", "epoch_order", "too_few"]

_ORDER = 2**32 - 1  # position that stands for "the order itself"; no epoch is that long
Key = tuple[int, int, int, int]  # epoch, position in it, data set (0 main, 1 mix), index in that
TrainingSample = tuple[Tensor, Tensor, str]
Batch = tuple[Tensor, Tensor, list[str]]


def epoch_order(
    main: int, mix: int, mix_share: float, *, seed: int, epoch: int, length: int | None = None
) -> list[Key]:
    """The samples of one epoch, in order.

    Each sample of the main set comes once, or with a ``length`` as often as fills it, give or take
    one time. Between them stand ``mix_share`` of all, drawn from the second set without repeats as
    long as it lasts.
    """
    random = generator(seed, epoch, _ORDER)
    share = mix_share if mix else 0.0
    wanted = main if length is None or not main else round(length * (1 - share))
    extra = round(wanted * share / (1 - share)) if length is None else length - wanted
    picked: list[tuple[int, int]] = []
    while wanted > 0:
        picked += [(0, int(index)) for index in random.permutation(main)[:wanted]]
        wanted -= main
    while mix and extra > 0:
        picked += [(1, int(index)) for index in random.permutation(mix)[:extra]]
        extra -= mix
    order = random.permutation(len(picked))
    return [(epoch, position, *picked[place]) for position, place in enumerate(order)]


class TrainingSamples:
    """Reads and augments one sample per key of ``epoch_order``.

    Args:
        main: the training set.
        mix: the second set, or ``None``.
        config: augmentation, label stride, seed, cache.
    """

    def __init__(self, main: Dataset, mix: Dataset | None, config: TrainConfig) -> None:
        self._sets = [main] if mix is None else [main, mix]
        self._config = config
        self._cache: dict[tuple[int, int], Sample] = {}
        self._augment = {
            early: Augmentation(
                crop=crop,
                scales=config.scales,
                continuous=config.continuous_scale,
                mirror=config.mirror,
                brightness=config.brightness,
                ignore_index=main.labels.ignore_index,
                exact=config.exact_resize,
            )
            for early, crop in ((True, config.early_crop or config.crop), (False, config.crop))
        }

    def _read(self, which: int, index: int) -> Sample:
        if (which, index) in self._cache:
            return self._cache[which, index]
        dataset = self._sets[which]
        sample = dataset[index]
        if sample.label is None:
            raise DataError(
                "this sample has no labels", where=sample.name, fix="training needs image<TAB>label"
            )
        # Files are checked when they are read; a data set of the user's own is not.
        check_label_values(sample.label, dataset.labels, where=sample.name)
        if self._config.cache:
            self._cache[which, index] = sample
        return sample

    def __getitem__(self, key: Key) -> TrainingSample:
        """Image (h, w, 3) uint8, label (h', w') uint8, and the sample's name."""
        epoch, position, which, index = key
        sample = self._read(which, index)
        random = generator(self._config.seed, epoch, position)
        augment = self._augment[2 * epoch < self._config.epochs]
        image, label = augment(sample, random)
        label = subsample(label, self._config.label_stride, aligned=self._config.aligned_labels)
        return (
            torch.from_numpy(image),
            torch.from_numpy(np.ascontiguousarray(label)),
            sample.name,
        )


class EpochBatches:
    """Batches of sample keys, one epoch at a time; a last batch that is not full is left out.

    With several processes a batch is cut into equal parts, one for each: together they see the
    same samples at the same step, under the same augmentation, as one process would.

    Args:
        main: length of the training set.
        mix: length of the second set, 0 without one.
        config: batch size (of all processes together), share of the second set, seed.
        rank: which part of each batch is this process's, 0 .. ``world`` - 1.
        world: number of processes.

    Attributes:
        epoch: which epoch ``iter`` yields; set it before each.
        first: batches of it that are left out, because a run goes on behind them.

    Raises:
        ArgumentError: if a batch cannot be cut into so many equal parts.
    """

    def __init__(
        self, main: int, mix: int, config: TrainConfig, *, rank: int = 0, world: int = 1
    ) -> None:
        if config.batch_size % world:
            raise ArgumentError(
                f"batch_size {config.batch_size} cannot be divided among {world} processes",
                where="TrainConfig",
                fix=f"use a multiple of {world}",
            )
        self._main, self._mix, self._config = main, mix, config
        self._rank, self._world = rank, world
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        return self._config.steps_per_epoch or len(self._order()) // self._config.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        order, size = self._order(), self._config.batch_size
        part = size // self._world
        for start in range(self.first * size, len(order) - size + 1, size):
            first = start + self._rank * part
            yield order[first : first + part]

    def _order(self) -> list[Key]:
        config = self._config
        return epoch_order(
            self._main, self._mix, config.mix_share, seed=config.seed, epoch=self.epoch,
            length=config.steps_per_epoch and config.steps_per_epoch * config.batch_size,
        )  # fmt: skip


def too_few(samples: int, config: TrainConfig) -> DataError:
    """What is raised where the samples do not fill one batch, and an epoch has no step."""
    return DataError(
        f"{samples} training samples do not fill one batch of {config.batch_size}",
        where=config.data,
        fix="use a smaller batch_size (--batch-size)",
    )


class BatchLoader:
    """Loads batches in this process, or in others that live as long as the loader.

    Args:
        samples: reads and augments.
        batches: which samples make a batch.
        workers: number of other processes; 0 for none.
    """

    def __init__(self, samples: TrainingSamples, batches: EpochBatches, workers: int) -> None:
        self._loader = DataLoader(
            _Guarded(samples),
            batch_sampler=batches,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            persistent_workers=workers > 0,
            collate_fn=_collate,
            worker_init_fn=_set_worker_signals if workers else None,
        )

    def __iter__(self) -> Iterator[Batch]:
        """Images (N, h, w, 3) uint8, labels (N, h', w') uint8, and names.

        Raises:
            DataError: if a sample cannot be used; the same one whether workers are used or not.
            TrainError: if a worker died, or has no shared memory for a batch.
        """
        try:
            for batch in self._loader:
                if isinstance(batch, ZooError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if isinstance(error, ZooError):
                raise
            raise self._lost_worker(error) from error

    def _lost_worker(self, error: RuntimeError) -> TrainError:
        """Which worker is gone, and what that usually means."""
        workers = getattr(getattr(self._loader, "_iterator", None), "_workers", [])
        for number, worker in enumerate(workers, start=1):
            if worker.exitcode:
                try:
                    how = f"was killed by {signal.Signals(-worker.exitcode).name}"
                except ValueError:
                    how = f"ended with code {worker.exitcode}"
                return TrainError(
                    f"{how} in the middle of an epoch",
                    where=f"worker {number} of {len(workers)} (process {worker.pid})",
                    why=_shared_memory() if worker.exitcode == -signal.SIGBUS else None,
                    fix="if memory ran out, use fewer workers or cache=False; "
                    "resume=True (--resume) goes on from here",
                )
        return TrainError(
            "samples cannot be prepared", where="workers", why=str(error).splitlines()[0],
            fix="see what the workers said; resume=True (--resume) goes on from here",
        )  # fmt: skip


class _Guarded(TorchDataset[TrainingSample | ZooError]):
    """Hands our errors on as values: DataLoader would turn them into tracebacks as text."""

    def __init__(self, samples: TrainingSamples) -> None:
        self._samples = samples

    def __getitem__(self, key: Key) -> TrainingSample | ZooError:
        try:
            return self._samples[key]
        except ZooError as error:
            return error


def _collate(items: list[TrainingSample | ZooError]) -> Batch | ZooError:
    samples: list[TrainingSample] = []
    for item in items:
        if isinstance(item, ZooError):
            return item
        samples.append(item)
    images, labels, names = zip(*samples, strict=True)
    stacked = torch.stack(images), torch.stack(labels)
    if get_worker_info() is not None:
        try:
            # Done later by itself, but then a failure would be printed, and the batch never come.
            for tensor in stacked:
                tensor.share_memory_()  # type: ignore[no-untyped-call]
        except (RuntimeError, OSError) as error:
            return TrainError(
                f"no shared memory for a batch of {sum(t.nbytes for t in stacked) >> 10} KiB",
                where="/dev/shm",
                why=f"{_shared_memory()}; {str(error).splitlines()[0]}",
                fix="use fewer workers or a smaller batch, or give the container more "
                "(docker's --shm-size); resume=True (--resume) goes on from here",
            )
    return *stacked, list(names)


def _shared_memory() -> str:
    try:
        disk = shutil.disk_usage("/dev/shm")
    except OSError:
        return "its size is not known"
    return f"/dev/shm has {disk.free >> 20} of {disk.total >> 20} MiB free"


def _set_worker_signals(worker: int) -> None:
    """A worker ends with its run, not by the signals that ask the run to end."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # how the loader ends a worker that hangs
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
