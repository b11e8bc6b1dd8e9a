"""``training.selection``: the k-th smallest without a sort, alone and over several processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from torchseg_zoo.training import selection
from torchseg_zoo.training.selection import hard_pixels, kth_smallest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kth_smallest_is_exact(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.rand(3000, generator=random, dtype=dtype)
    values[:500] = values[500:1000]  # ties
    values[-40:] = torch.inf
    values[7] = 0
    values[8] = torch.finfo(dtype).tiny / 4  # denormal
    ordered = values.sort().values
    for k in (1, 2, 3, 4, 17, 1500, 2960, 2961, 3000):
        assert kth_smallest(values, k) == ordered[k - 1]


@pytest.mark.parametrize("min_kept", [0, 1, 40, 100, 130, 5000, 0.25, 0.999])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.9, 1.0])
def test_both_ways_keep_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, threshold: float, min_kept: float
) -> None:
    random = torch.Generator().manual_seed(1)
    probability = torch.rand(2, 10, 8, generator=random)
    valid = torch.rand(2, 10, 8, generator=random) < 0.8
    kept = hard_pixels(probability, valid, threshold=threshold, min_kept=min_kept)
    wanted = int(min_kept * 160) if 0 < min_kept < 1 else int(min_kept)
    if not 0 < wanted <= valid.sum():
        assert (kept == valid).all()
    else:
        limit = max(threshold, probability[valid].sort().values[wanted - 1].item())
        assert (kept == (valid & (probability <= limit))).all()
        assert kept.sum() >= wanted

    def as_on_a_gpu(values: torch.Tensor, least: float, k: int) -> torch.Tensor:
        return kth_smallest(values, k).clamp_min(least)

    monkeypatch.setattr(selection, "_limit_on_host", as_on_a_gpu)
    again = hard_pixels(probability, valid, threshold=threshold, min_kept=min_kept)
    assert (again == kept).all()


def test_nothing_valid_keeps_nothing() -> None:
    nothing = torch.zeros(1, 4, 4, dtype=torch.bool)
    for min_kept in (0, 3, 0.5):
        kept = hard_pixels(torch.rand(1, 4, 4), nothing, threshold=0.7, min_kept=min_kept)
        assert not kept.any()


WORKER = """
    import sys, torch
    import torch.distributed as dist
    from torchseg_zoo.training.selection import hard_pixels

    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    random = torch.Generator().manual_seed(5)
    probability = torch.rand(2, 30, 20, generator=random) ** 2
    probability[1] = probability[1] / 3  # the second process has the hard ones
    valid = torch.rand(2, 30, 20, generator=random) < 0.8
    for threshold, min_kept in ((0.05, 700), (0.05, 0.5), (0.9, 10), (0.05, 0), (0.05, 1100)):
        alone = hard_pixels(probability, valid, threshold=threshold, min_kept=min_kept)
        mine = hard_pixels(
            probability[rank], valid[rank], threshold=threshold, min_kept=min_kept, scope="global"
        )
        assert torch.equal(mine, alone[rank]), (threshold, min_kept)
        own = hard_pixels(probability[rank], valid[rank], threshold=threshold, min_kept=min_kept)
        if min_kept == 0.5:
            assert not torch.equal(own, mine)
    dist.destroy_process_group()
"""


def test_two_processes_select_as_one_does(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path)],
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
