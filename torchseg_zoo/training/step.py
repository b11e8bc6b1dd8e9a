"""One step of training: forward, backward, checks, update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.errors import TrainError, ZooError
from torchseg_zoo.models.base import SegmentationModel
from torchseg_zoo.training.config import TrainConfig
from torchseg_zoo.training.team import Team, without_sync
from torchseg_zoo.types import SegOutput

__all__ = ["Normalise", "TrainStep", "labelled_mass", "unused_parameters", "update_average"]

Loss = Callable[[SegOutput, Tensor], Tensor]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Normalise:
    """uint8 (N, H, W, C) from the workers → normalised (N, C, H, W), where the weights are."""

    def __init__(self, preprocess: Preprocess, weights: Tensor) -> None:
        scale, shift = preprocess.scale_and_shift()
        self._scale = torch.from_numpy(scale).to(weights)
        self._shift = torch.from_numpy(shift).to(weights)

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.to(self._scale.device, non_blocking=True).to(self._scale.dtype)
        return (pixels * self._scale + self._shift).permute(0, 3, 1, 2)


class TrainStep:
    """Takes the samples of a step, changes the weights, and returns the loss.

    The loss is the mean over the step's labelled pixels, however many processes and parts they are
    divided among.

    Args:
        model: on its device, in its memory format.
        optimizer: over its parameters; learning rates are set by the caller.
        loss: (output, (N, H, W) labels) → scalar.
        mass: labels → what they weigh in the mean, a scalar; see ``labelled_mass``.
        config: precision, accumulation, clipping.
        team: the processes that share the step.
    """

    def __init__(
        self,
        model: SegmentationModel,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        mass: Callable[[Tensor], Tensor],
        config: TrainConfig,
        team: Team,
    ) -> None:
        self._model, self._optimizer, self._loss, self._mass = model, optimizer, loss, mass
        self._config, self._team = config, team
        self._normalise = Normalise(model.preprocess, next(model.parameters()))
        self._parameters = [value for group in optimizer.param_groups for value in group["params"]]
        self._kept = [buffer.clone() for buffer in model.buffers()]
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=config.precision == "fp16")
        unused = unused_parameters(model, loss, config.crop) if team.size > 1 else []
        self._network = team.wrap(model, unused)
        if config.compile:
            self._network = torch.compile(self._network)  # type: ignore[assignment]

    def __call__(self, images: Tensor, labels: Tensor) -> float:
        """Does a step, unless loss or gradient are not finite: then it changes nothing.

        Args:
            images: (N, H, W, C) uint8, this process's share.
            labels: (N, h, w) uint8.

        Returns:
            The mean loss of all processes, the same in each; not finite if nothing was done.

        Raises:
            TrainError: if memory runs out, or a batch norm gets one value per channel.
        """
        with self._explained():
            if self._config.non_finite == "skip":
                self._keep_buffers()
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._forward_backward(images, labels)
            return self._update(loss)

    def _forward_backward(self, images: Tensor, labels: Tensor) -> Tensor:
        device, parts = self._team.device, min(self._config.accumulate, len(images))
        labels = labels.to(device, non_blocking=True)
        shares = self._shares(labels.tensor_split(parts))
        whole = torch.zeros((), device=device)
        pieces = zip(images.tensor_split(parts), labels.tensor_split(parts), shares, strict=True)
        for number, (some, wanted, share) in enumerate(pieces, start=1):
            with without_sync(self._network, number < parts), self._autocast():
                output = self._network(self._normalise(some), with_aux=True, upsample=False)
                loss = self._loss(output, wanted)
                if share is not None:
                    loss = loss * share
                # Gradients are averaged over the processes, but the shares add up.
                scaled = self.scaler.scale(loss * self._team.size)
                scaled.backward()  # type: ignore[no-untyped-call]
            whole += loss.detach()
        return self._team.sum(whole)

    def _shares(self, labels: tuple[Tensor, ...]) -> list[Tensor | None]:
        """How much each part counts in the step's mean."""
        if len(labels) * self._team.size == 1:
            return [None]
        masses = torch.stack([self._mass(part) for part in labels]).double()
        everything = self._team.sum(masses.sum())
        even = torch.full_like(masses, 1 / (len(labels) * self._team.size))
        return list(torch.where(everything > 0, masses / everything, even))

    def _update(self, loss: Tensor) -> float:
        """Gradients are the same in all processes by now, so all of them decide alike."""
        gradients = [value.grad for value in self._parameters if value.grad is not None]
        self.scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.get_total_norm(gradients)
        value, length = (float(number) for number in torch.stack([loss, norm]).tolist())
        # Too large gradients are how loss scaling finds its scale: the scaler leaves the step out.
        if not math.isfinite(value) or not (math.isfinite(length) or self.scaler.is_enabled()):
            self.scaler.update()
            if self._config.non_finite == "skip":
                self._put_buffers_back()
            return value if not math.isfinite(value) else length
        if self._config.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._config.clip_norm, norm)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return value

    def _autocast(self) -> torch.autocast:
        dtype = _DTYPES.get(self._config.precision)
        return torch.autocast(self._team.device.type, dtype, enabled=dtype is not None)

    def _keep_buffers(self) -> None:
        for kept, buffer in zip(self._kept, self._model.buffers(), strict=True):
            kept.copy_(buffer)

    def _put_buffers_back(self) -> None:
        for kept, buffer in zip(self._kept, self._model.buffers(), strict=True):
            buffer.copy_(kept)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Says what to change when a step does not fit."""
        config, team = self._config, self._team
        share = config.batch_size // team.size
        size = f"{share} samples of {config.crop[0]}×{config.crop[1]} in {config.accumulate} parts"
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(error, team, size) from error
        except (RuntimeError, ValueError) as error:
            if isinstance(error, ZooError):
                raise
            if any(words in str(error) for words in _NO_MEMORY):
                raise _out_of_memory(error, team, size) from error
            if "more than 1 value per channel" in str(error):
                raise TrainError(
                    "a batch norm after pooling sees a single value per channel",
                    where="batch_size",
                    why=f"{size}, {team.size} processes",
                    fix="raise batch_size, lower accumulate, or set sync_bn",
                ) from error
            raise


# PyTorch's allocator, and oneDNN where it can give no room to what it would compute.
_NO_MEMORY = ("can't allocate memory", "could not create a primitive")


def _out_of_memory(error: Exception, team: Team, size: str) -> TrainError:
    peak = ""
    if team.device.type == "cuda":
        peak = f", peak {torch.cuda.max_memory_allocated(team.device) >> 20} MiB"
    return TrainError(
        f"out of memory with {size}{peak}",
        where=str(team.device),
        why=str(error).split(". ")[0],
        fix="raise accumulate (the batch stays the same), use precision=bf16 on a GPU, a smaller "
        "crop or batch_size, or more processes; resume=True (--resume) goes on from the last "
        "saved state",
    )


def labelled_mass(labels: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What labels weigh in a weighted mean over labelled pixels.

    Args:
        labels: (N, H, W) uint8 or int64.
        weight: (K,) factor per class; ``None`` for 1.
        ignore_index: label value that does not count.
    """
    kept = labels != ignore_index
    if weight is None:
        return kept.sum()
    return (weight[labels.where(kept, 0).long()] * kept).sum()


def unused_parameters(
    model: SegmentationModel, loss: Loss, crop: tuple[int, int]
) -> list[nn.Parameter]:
    """Parameters that the loss does not depend on, as DFN's border heads without a border loss.

    They are read off the graph of one forward pass, in evaluation mode, which changes nothing.

    Args:
        model: on its device; whether it was training is put back.
        loss: (output, labels) → scalar.
        crop: (height, width) of the samples.
    """
    first = next(model.parameters())
    image = torch.zeros(1, model.config.in_channels, *crop, device=first.device)
    labels = torch.zeros(1, *crop, dtype=torch.uint8, device=first.device)
    was_training = model.training
    model.eval()
    value = loss(model(image, with_aux=True, upsample=False), labels)
    model.train(was_training)
    reached, todo = set(), [value.grad_fn]
    seen = set(todo)
    while todo:
        node = todo.pop()
        if node is None:
            continue
        if hasattr(node, "variable"):
            reached.add(id(node.variable))
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                todo.append(following)
    return [
        value for value in model.parameters() if value.requires_grad and id(value) not in reached
    ]


@torch.no_grad()
def update_average(averaged: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Moves the averaged weights towards the model's by ``1 - decay``; counters are copied.

    Args:
        averaged: a copy of ``model`` from earlier.
        model: the model after ``step`` + 1 steps.
        decay: 0..1; early on less, as a long memory would hold on to the random start.
        step: from 0 on.
    """
    decay = min(decay, (1 + step) / (10 + step))
    pairs = zip(averaged.state_dict().values(), model.state_dict().values(), strict=True)
    for mean, value in pairs:
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
