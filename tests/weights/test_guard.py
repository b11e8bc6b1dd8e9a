"""``weights.guard``: what pickles and damaged files can do to the process that asks for them."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from guard_processes import Quick
from pickles import payloads, saved

from torchseg_zoo.errors import CheckpointFormatError, UnsafeCheckpointError, ZooError
from torchseg_zoo.weights import guard
from torchseg_zoo.weights.guard import read_foreign

TORCH_BYTES = 64 << 20  # pages of torch itself that a forked process touches


def outcome(path: Path) -> str:
    """Name of the error's class, or "" if the file was read."""
    try:
        read_foreign(path)
    except ZooError as error:
        assert error.where == str(path) and "weights_only" not in str(error)
        assert "\n" not in str(error) and len(str(error)) < 1000 and error.fix
        return type(error).__name__
    return ""


# The real child process


@pytest.mark.parametrize("legacy", [False, True])
def test_a_good_file_comes_through_with_what_lies_beside_its_tensors(
    legacy: bool, tmp_path: Path
) -> None:
    state = {
        "module.a.weight": torch.randn(3, 4, 2).transpose(0, 2),
        "module.a.half": torch.randn(5).half(),
        "module.count": torch.tensor(7),
        "module.mask": torch.tensor([True, False]),
        "module.none": torch.zeros(0, 3),
    }
    state["module.again"] = state["module.a.half"]  # one storage under two names
    record = {
        "state_dict": collections.OrderedDict(state),
        "meta": {
            "epoch": np.int64(3), "best": np.float64(0.5), "seed": np.array([1, 2]),
            "flag": np.bool_(True), "names": ("a", "b"), "set": {1, 2}, "none": None,
            "palette": np.zeros((2, 3), np.uint8), "text": np.array("abc"),
        },
        "by default": collections.defaultdict(list),
        "device": torch.device("cuda"), "dtype": torch.float16, "size": torch.Size([1]),
    }  # fmt: skip
    path = tmp_path / "good.pth"
    path.write_bytes(saved(record, legacy=legacy))
    tensors = read_foreign(path)
    assert set(tensors) == {name.removeprefix("module.") for name in state}
    for name, tensor in state.items():
        assert torch.equal(tensors[name.removeprefix("module.")], tensor), name
        assert tensors[name.removeprefix("module.")].dtype == tensor.dtype
    assert list(tmp_path.iterdir()) == [path]


def test_code_is_not_run_and_is_named(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "evil.pth"
    for name, data, _ in payloads(canary):
        if name in ("os.system", "torch.storage._load_from_bytes"):
            path.write_bytes(data)
            with pytest.raises(UnsafeCheckpointError, match=f"asks for {name} at byte 2 of a/data"):
                read_foreign(path)
    assert not canary.exists()


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "big.pth"
    path.write_bytes(saved({f"a{index}": torch.ones(50) for index in range(3000)}))
    code = f"from torchseg_zoo.weights.guard import read_foreign; read_foreign({str(path)!r})"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)

    def children() -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if b"_reader.py" in (entry / "cmdline").read_bytes():
                    stat = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(stat[1]) == parent.pid:
                        found.append(int(entry.name))
        return found

    until = time.monotonic() + 60
    while not (started := children()):
        assert time.monotonic() < until and parent.poll() is None
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < until, "the child lives on"
        time.sleep(0.05)


def test_the_child_sees_neither_the_environment_nor_startup_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = tmp_path / "canary"
    for name in ("sitecustomize.py", "usercustomize.py", "json.py", "torch.py"):
        (tmp_path / name).write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "json.py"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "good.pth"
    path.write_bytes(saved({"a": torch.ones(2)}))
    assert list(read_foreign("good.pth")) == ["a"]
    assert not canary.exists()


def test_a_child_that_dies_before_it_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.wait()

    path, reader = tmp_path / "good.pth", tmp_path / "reader.py"
    path.write_bytes(saved({"a": torch.ones(2)}))
    reader.write_text("raise SystemExit(3)")
    monkeypatch.setattr(guard, "_READER", reader)
    monkeypatch.setattr(guard.subprocess, "Popen", Dead)
    with pytest.raises(CheckpointFormatError, match=r"was ended \(exit code 3"):
        read_foreign(path)


def test_a_child_that_hangs_dies_or_raves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "good.pth"
    path.write_bytes(saved({"a": torch.ones(2)}))
    reader = tmp_path / "reader.py"
    monkeypatch.setattr(guard, "_READER", reader)
    monkeypatch.setattr(guard, "_WALL_S", 1.0)
    beats: list[int] = []
    cases = {
        "import time; time.sleep(99)": "took more than 1 s",
        "import os; os.kill(os.getpid(), 11)": r"was ended \(SIGSEGV",
        "import os; os.kill(os.getpid(), 9)": r"was ended \(SIGKILL: more time or memory",
        "raise SystemExit(3)": r"was ended \(exit code 3",
        "print('{')": "was ended",
        "print('[1]')": "was ended",
        "print('x' * 60000)": "was ended",
        "print('{\"tensors\": 1}')": "left no proper file",
        'print(\'{"kind": "new"}\')': "cannot be read",
    }
    for code, words in cases.items():
        reader.write_text(code)
        with pytest.raises(CheckpointFormatError, match=words):
            read_foreign(path, beat=lambda: beats.append(1))
    assert len(beats) >= 2


def test_limits_hold_in_the_child(tmp_path: Path) -> None:
    code = f"""
import importlib.util, json, os, socket, sys
spec = importlib.util.spec_from_file_location("reader", {str(guard._READER)!r})
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)
reader._leave_the_network()
reader._limit_work(1000)
reader._limit_reach(1000, {str(tmp_path / "out")!r})
found = []
def tries(name, call):
    try:
        call()
    except BaseException as error:
        found.append([name, type(error).__name__])
tries("memory", lambda: bytearray(400 << 20))
tries("system", lambda: os.system("true"))
tries("fork", lambda: os.fork())
tries("socket", lambda: socket.socket())
tries("write", lambda: open({str(tmp_path / "other")!r}, "w"))
tries("remove", lambda: os.remove({str(guard._READER)!r}))
tries("many files", lambda: [open(os.devnull) for _ in range(100)])
open({str(tmp_path / "out")!r}, "wb").write(b"x")
tries("long file", lambda: open({str(tmp_path / "out")!r}, "wb").write(bytes(20 << 20)))
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    found = dict(json.loads(done.stdout))
    refused = dict.fromkeys(("system", "fork", "socket", "write", "remove"), "_Refused")
    assert found == {"memory": "MemoryError", **refused, "many files": "OSError",
                     "long file": "OSError"}  # fmt: skip
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", ["nothing", "folder", "pipe"])
def test_what_is_no_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(CheckpointFormatError):
        read_foreign(path)


# The same code, forked


def test_payloads(quick: Quick, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "file.pth"
    wrong = {}
    count = 0
    for name, data, expected in payloads(canary):
        path.write_bytes(data)
        got = outcome(path)
        count += 1
        slow = quick.last["wall_s"] > 10
        greedy = quick.last["more_bytes"] > 3 * len(data) + (200 << 20) + TORCH_BYTES
        if got != expected or slow or greedy:
            wrong[name] = (got, quick.last)
    assert not wrong
    assert not canary.exists()
    assert count >= 130
    path.write_bytes(saved({"a": torch.ones(2)}))
    assert outcome(path) == ""


def mutations(data: bytes, rng: random.Random) -> bytes:
    """The file with a few bytes changed, a stretch lost or doubled, or its end cut."""
    changed = bytearray(data)
    kind = rng.random()
    if kind < 0.7:
        # Half of them in the pickle and the directory rather than among the numbers.
        for _ in range(rng.randint(1, 8)):
            low, high = (0, len(data)) if rng.random() < 0.5 else (0, min(len(data), 1500))
            if rng.random() < 0.25:
                low, high = max(0, len(data) - 700), len(data)
            changed[rng.randrange(low, high)] = rng.randrange(256)
        return bytes(changed)
    place, length = rng.randrange(len(data)), rng.randint(1, 300)
    if kind < 0.8:
        return data[:place]
    if kind < 0.9:
        return data[:place] + data[place + length :]
    return data[:place] + data[place : place + length] * 2 + data[place + length :]


def mutated(quick: Quick, tmp_path: Path, count: int, seed: int) -> collections.Counter[str]:
    rng = random.Random(seed)
    state = {f"layer{index}.weight": torch.randn(8, 8) for index in range(6)}
    record = {"state_dict": state, "meta": {"epoch": np.int64(3), "a": np.arange(3)}}
    bases = [saved(record), saved(record, legacy=True), saved(state), saved(state, legacy=True)]
    path = tmp_path / "file.pth"
    found: collections.Counter[str] = collections.Counter()
    for _ in range(count):
        data = mutations(rng.choice(bases), rng)
        path.write_bytes(data)
        found[outcome(path)] += 1
        assert quick.last["wall_s"] < 10
        assert quick.last["more_bytes"] < 3 * len(data) + (200 << 20) + TORCH_BYTES
        found[f"exit {quick.last['code']}"] += 1
    assert list(tmp_path.iterdir()) == [path]
    return found


def test_mutated_files(quick: Quick, tmp_path: Path) -> None:
    found = mutated(quick, tmp_path, 200, seed=1)
    assert found["CheckpointFormatError"] > 50


@pytest.mark.soak
def test_many_mutated_files(quick: Quick, tmp_path: Path) -> None:
    found = mutated(quick, tmp_path, 10_000, seed=2)
    print(sorted(found.items()))
    assert found["CheckpointFormatError"] > 2000


# Conversion under SIGKILL


def partial_files(cache: Path) -> list[Path]:
    """What is left in the making; the notes of a few bytes beside downloads, which later ones
    collect, do not count."""
    return [path for path in cache.glob("partial/*") if path.suffix != ".json"]


def killed_conversions(
    quick: Quick,
    tmp_path: Path,
    count: int,
    url: str,
    file: Path,
    env: Callable[[Path], dict[str, str]],
) -> dict[str, int]:
    """Starts conversions and kills each at a random moment; what was found afterwards."""
    name = "torchseg/bisenet_x39"

    def start(cache: Path) -> int:
        return int(quick.ask(convert=name, url=url, file=str(file), env=env(cache)))

    first = tmp_path / "cache"
    assert quick.ask(wait=start(first)) == 0  # the first one takes longer than all others
    began = time.monotonic()
    assert quick.ask(wait=start(tmp_path / "second")) == 0
    whole_s = time.monotonic() - began
    expected = {path.name for path in (first / "blobs").iterdir()}
    rng = random.Random(count)
    tally = {"killed": 0, "finished": 0, "most files left": 0}
    for index in range(count):
        cache = tmp_path / f"cache{index}"
        pid = start(cache)
        time.sleep(rng.uniform(0, 1.1 * whole_s))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        code = quick.ask(wait=pid)
        tally["killed" if code == -9 else "finished"] += 1
        left = [path for path in partial_files(cache) if path.stat().st_size]
        assert len(left) <= 1, left
        tally["most files left"] = max(tally["most files left"], len(left))
        blobs = cache / "blobs"
        assert {path.name for path in blobs.iterdir()} <= expected if blobs.exists() else True
        assert quick.ask(wait=start(cache)) == 0
        assert {path.name for path in blobs.iterdir()} == expected
        assert partial_files(cache) == []
        for path in sorted(cache.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    return tally


@pytest.fixture
def conversion(server: Any, tmp_path: Path) -> tuple[str, Path, Callable[[Path], dict[str, str]]]:
    from foreign import save

    file = tmp_path / "x39.pth"
    save("torchseg/bisenet_x39", file)
    url = server.file("/x39.pth", file.read_bytes())

    def env(cache: Path) -> dict[str, str]:
        return {"TORCHSEG_ZOO_CACHE": str(cache), "HF_ENDPOINT": server.url}

    return url, file, env


def test_killed_conversions(quick: Quick, conversion: Any, tmp_path: Path) -> None:
    tally = killed_conversions(quick, tmp_path, 10, *conversion)
    assert tally["killed"] >= 3


@pytest.mark.soak
def test_many_killed_conversions(quick: Quick, conversion: Any, tmp_path: Path) -> None:
    tally = killed_conversions(quick, tmp_path, 200, *conversion)
    print(tally)
    assert tally["killed"] >= 100
