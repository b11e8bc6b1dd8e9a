"""The second load of a released checkpoint, from the cache, against ``torch.load``.

    python benchmarks/second_load.py [--rounds 15]

A BiSeNet-R18 (54 MB) is put into an empty cache as a released native file. Each round then takes,
one after the other: ``torch.load`` and ``load_state_dict``; looking the file up in the cache,
mapping it and assigning its tensors; the same and reading every tensor once; the same after the
file's times were changed, so that it is hashed again. Medians of per-round ratios are printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from torchseg_zoo.files import sha256_of
from torchseg_zoo.models import bisenet_r18
from torchseg_zoo.models.build import released_file
from torchseg_zoo.models.checkpoint import save_model
from torchseg_zoo.weights.load import assign, read_tensors
from torchseg_zoo.weights.manifest import Checkpoint, Source


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHSEG_ZOO_CACHE"] = f"{folder}/cache"
        model = bisenet_r18()
        native, pickled = Path(folder, "m.safetensors"), Path(folder, "m.pth")
        save_model(model, native)
        torch.save(model.state_dict(), pickled)
        entry = Checkpoint(
            model.config.model, "benchmark", model.config.to_dict(),
            (Source("file", str(native)),), sha256_of(native), native.stat().st_size, "native",
            model.preprocess, model.labels,
        )  # fmt: skip

        def from_pickle() -> None:
            model.load_state_dict(torch.load(pickled, weights_only=True))

        def from_cache() -> None:
            tensors = read_tensors(released_file(type(model), entry), mapped=True)
            assign(model, tensors, where="benchmark")

        def from_cache_and_read() -> None:
            from_cache()
            for tensor in model.state_dict().values():
                tensor.view(torch.uint8).max() if tensor.ndim else tensor.item()

        def from_cache_hashed() -> None:
            os.utime(released_file(type(model), entry))
            from_cache()

        ways = (from_cache, from_cache_and_read, from_cache_hashed)
        from_cache()  # the first load fills the cache
        ratios: dict[str, list[float]] = {way.__name__: [] for way in ways}
        spent: dict[str, list[float]] = {way.__name__: [] for way in ways}
        for _ in range(rounds):
            fresh = bisenet_r18()
            model.load_state_dict(fresh.state_dict(), assign=True)  # memory of its own again
            base = seconds(from_pickle)
            spent.setdefault("from_pickle", []).append(base)
            for way in ways:
                spent[way.__name__].append(seconds(way))
                ratios[way.__name__].append(spent[way.__name__][-1] / base)
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{rounds} rounds, torch.load + load_state_dict {median_ms(spent['from_pickle'])}"
    )
    for name, found in ratios.items():
        print(f"{name:<24} {statistics.median(found):6.3f}  {median_ms(spent[name])}")


def median_ms(values: list[float]) -> str:
    return f"{statistics.median(values) * 1e3:.1f} ms"


if __name__ == "__main__":
    main()
