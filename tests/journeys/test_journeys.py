"""The twelve tasks of docs/journeys, from clean environments, by nothing but what the pages say."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from clean_environment import Environment, Forks
from hub_server import HubServer
from page_folders import drawn
from page_walk import Walk, commands_of, walking
from pages import blocks_of, text_of
from PIL import Image
from training_runs import differences
from videos import read_frames, stream_of

import torchseg_zoo as tsz
from torchseg_zoo.data.datasets import open_dataset
from torchseg_zoo.errors import DataError, MissingExtraError

Arrive = Callable[..., Walk]  # of conftest

PAGES = "docs/journeys"
INDEX, LABEL = f"{PAGES}/index.md", f"{PAGES}/label.md"
COMPARE, MASKS, TRAIN = f"{PAGES}/compare.md", f"{PAGES}/masks.md", f"{PAGES}/train.md"
REPRODUCE, EXPORT, CONVERT = (
    f"{PAGES}/reproduce.md", f"{PAGES}/export.md", f"{PAGES}/convert.md",
)  # fmt: skip
PUBLISH, CLUSTER = f"{PAGES}/publish.md", f"{PAGES}/cluster.md"
TESTS = Path(__file__).parents[1]


def pixels(path: Path) -> np.ndarray:
    """A picture as it is stored; palette PNGs as their indices."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def alike(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal but for single pixels: where weights lie in memory decides how sums are rounded."""
    return found.shape == wanted.shape and float((found == wanted).mean()) > 0.999


@pytest.fixture(scope="module")
def embedded() -> tsz.SegmentationModel:
    return tsz.bisenet_x39(pretrained="camvid")


def test_the_environments_hold_the_wheel_and_not_the_checkout(
    clean: Environment, bare: Environment, tmp_path: Path
) -> None:
    script = "import torchseg_zoo, torch; print(torchseg_zoo.__file__)"
    done = clean.run(["python", "-c", script], tmp_path)
    assert done.out.strip() == str(clean.site / "torchseg_zoo" / "__init__.py")
    done = bare.run(["python", "-c", "import torch; import torchseg_zoo"], tmp_path)
    assert "No module named 'torchseg_zoo'" in done.err


def test_every_task_has_its_test(arrive: Arrive) -> None:
    rows = re.findall(r"^\| (\d+) \|.*\| (.+) \|$", text_of(INDEX), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 13))
    tests = "".join(name for name in globals() if name.startswith("test_task_"))
    for number, links in rows:
        assert f"test_task_{number}_" in tests
        for page in re.findall(r"\]\((\w+\.md)", links):
            assert page in Path(__file__).read_text() or page == "finetune.md"
    told = arrive(INDEX).follow(INDEX)
    assert "bisenet_r18" in told and "--resume" in told


def test_task_1_label_my_picture(arrive: Arrive, embedded: tsz.SegmentationModel) -> None:
    walk = arrive(LABEL)
    walk.follow(LABEL, "one-picture")
    wanted, out = tsz.predict(embedded, walk.folder / "street.png"), walk.folder / "out"
    assert alike(pixels(out / "street_labels.png"), wanted.labels)
    overlay = pixels(out / "street_overlay.png")
    assert alike(overlay, np.asarray(wanted.overlay()))
    assert pixels(out / "street_confidence.png").shape == wanted.labels.shape
    assert alike(pixels(walk.folder / "street_overlay.png"), overlay)
    refused = walk.run("torchseg-zoo", "predict", "stret.png", "-o", "out")
    assert refused.code == DataError.exit_code
    assert refused.err.startswith("torchseg-zoo: DataError: stret.png") and (
        refused.err.count("\n") == 1
    )


def test_task_2_label_a_folder_and_a_video(arrive: Arrive, embedded: tsz.SegmentationModel) -> None:
    walk = arrive(LABEL)
    walk.follow(LABEL, "a-folder", "a-video-a-camera", "a-picture-that-does-not-fit-into-memory")
    photos, out = sorted((walk.folder / "photos").iterdir()), walk.folder / "out"
    for photo in photos:
        labels = pixels(out / f"{photo.stem}_labels.png")
        same = labels == tsz.predict(embedded, photo).labels
        assert same.mean() > 0.999  # the folder's model has its batch norms folded
    before, after = stream_of(walk.folder / "drive.mp4"), stream_of(walk.folder / "labelled.mp4")
    assert (after["size"], after["frames"], after["rate"]) == (
        before["size"], before["frames"], before["rate"],
    )  # fmt: skip
    assert len(read_frames(walk.folder / "labelled.mov")) == 5
    assert pixels(walk.folder / "labels.png").shape == pixels(walk.folder / "street.png").shape[:2]

    (walk.folder / "photos" / "broken.png").write_bytes(photos[0].read_bytes()[:500])
    written = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    again = walk.run("torchseg-zoo", "predict", "photos", "-o", "out", "--labels", "--resume")
    assert again.code == 3 and "photos/broken.png" in again.err
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.png")} == written


def test_task_3_torch_hub_in_a_notebook(arrive: Arrive, bare: Environment) -> None:
    walk = arrive(LABEL, bare)
    walk.follow(LABEL, "in-a-notebook")
    told = walk.notebook.run("print(tsz.__file__, len(result.overlay()._repr_png_()) > 1000)")
    assert told.split() == [
        str(walk.folder / "torchseg-zoo" / "torchseg_zoo" / "__init__.py"), "True",
    ]  # fmt: skip
    place = (walk.folder / "torchseg-zoo" / "examples").resolve()
    cells = json.loads((place / "notebook.ipynb").read_text())["cells"]
    with walking(walk.environment, place) as notebook:
        for cell in cells:
            if cell["cell_type"] == "code":
                notebook.notebook.run("".join(cell["source"]), page="notebook.ipynb")
        assert "road" in notebook.notebook.run("print(result.shares)")


def test_task_4_compare_models_on_my_folder(
    arrive: Arrive, embedded: tsz.SegmentationModel
) -> None:
    walk = arrive(COMPARE)
    told = walk.follow(COMPARE)
    data = open_dataset(str(walk.folder / "labelled"), "val", embedded.labels)
    wanted = tsz.evaluate(embedded, data, progress=False)
    table = told.partition("3  runs/b/best.safetensors\n")[2].partition("pictures/s")[0]
    rows = {row.split("  ")[0]: row.split()[-3:] for row in table.splitlines()}
    assert rows["mean IoU %"] == [f"{wanted.miou_percent:.2f}"] * 3  # the runs hold the same model
    assert rows["sky"] == [f"{wanted.iou_percent[0]:.2f}"] * 3
    card = json.loads((walk.folder / "reports/a/card.json").read_text())
    assert card["miou_percent"] == round(wanted.miou_percent, 4)
    page = (walk.folder / "reports/a/report.html").read_text()
    assert page.count("data:image/") >= 3 * len(data) and "://" not in page


def test_task_5_fine_tune_from_coloured_masks(arrive: Arrive) -> None:
    walk = arrive(MASKS)
    walk.follow(MASKS)
    model = tsz.load_model(walk.folder / "runs/painted/best.safetensors")
    assert model.labels.classes == ("sky", "road", "thing")
    assert model.labels.palette == ((0, 128, 255), (128, 64, 128), (200, 30, 30))
    report = json.loads((walk.folder / "report/card.json").read_text())
    assert len(report["iou_percent"]) == 3 and len(report["pictures"]) == 2
    found = {path.name for path in (walk.folder / "predictions").glob("*.png")}
    assert found == {f"{index:04}_overlay.png" for index in range(10)}


def test_task_6_train_from_scratch_and_resume_after_a_kill(arrive: Arrive) -> None:
    walk = arrive(TRAIN)
    plan, train = commands_of(TRAIN, "train-from-scratch-on-camvid-and-resume")
    assert "bisenet_x39" in walk.run(*plan.words).out
    process, run = walk.start(*train.words), walk.folder / "runs/camvid"
    while process.poll() is None and not (run / "last.safetensors").exists():
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it had ended before it could be killed"
    walk.follow(TRAIN, "after-a-kill", "score-it")

    straight = walk.run(*(word.replace("runs/camvid", "runs/straight") for word in train.words))
    assert straight.code == 0, straight.err
    for name in ("best", "last"):
        whole = walk.folder / f"runs/straight/{name}.safetensors"
        assert differences(run / f"{name}.safetensors", whole) == []
    for name in ("curve.png", "samples/epoch_0004.png"):
        np.testing.assert_array_equal(
            pixels(run / name).shape, pixels(walk.folder / "runs/straight" / name).shape
        )
    assert len((run / "log.csv").read_text().splitlines()) == 5


def test_task_7_reproduce_a_row(arrive: Arrive) -> None:
    walk = arrive(REPRODUCE)
    told = walk.follow(REPRODUCE)
    assert "the published score is reached within 0.5 points" in told
    assert "published for this file: 61.16 % mIoU" in told
    # On labels of another picture each, it is not reached, and says how far off it is.
    for path in (walk.folder / "data/camvid/valannot").iterdir():
        Image.fromarray(np.flipud(pixels(path))).save(path)
    (row,) = commands_of(REPRODUCE, "reproduce-a-row-of-torchsegs-tables")[1:]
    missed = walk.run(*row.words)
    assert missed.code == 1
    assert re.search(r"\(-\d+\.\d\d points of mIoU, -\d+\.\d\d of accuracy\)", missed.out)
    assert "not reached within 0.5 points" in missed.out


@pytest.fixture(scope="module")
def exported(
    clean: Environment, forks: Forks | None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder in which the page has exported the model."""
    folder = tmp_path_factory.mktemp("exported")
    with walking(clean, folder, forks) as walk:
        walk.follow(EXPORT, "export-and-run-elsewhere")
    return folder


def carry(exported: Path, folder: Path) -> None:
    """Takes the file and its proof to another machine."""
    for path in exported.glob("bisenet.onnx*"):
        shutil.copy(path, folder)


def test_task_8_run_an_export_without_torch(
    arrive: Arrive, box: Environment, exported: Path, embedded: tsz.SegmentationModel
) -> None:
    walk = arrive(EXPORT, box)
    carry(exported, walk.folder)
    assert "No module named 'torch'" in walk.run("python", "-c", "import torch").err
    refused = walk.run("torchseg-zoo", "predict", "street.png")
    assert refused.code == MissingExtraError.exit_code and refused.err.count("\n") == 1
    assert "torchseg-zoo infer FOLDER --onnx FILE" in refused.err
    told = walk.follow(EXPORT, "a-box-without-torch")
    assert "median of 3 pictures" in told
    street = tsz.predict(embedded, walk.folder / "street.png")
    same = walk.notebook.run("import numpy; numpy.save('labels.npy', result.labels)")
    assert same == "" and (np.load(walk.folder / "labels.npy") == street.labels).mean() > 0.999
    assert pixels(walk.folder / "overlay.png").shape == np.asarray(street.overlay()).shape
    for photo in (walk.folder / "photos").iterdir():
        labels = pixels(walk.folder / "out" / f"{photo.stem}_labels.png")
        assert (labels == tsz.predict(embedded, photo).labels).mean() > 0.999


STAND_IN = f"""
import sys
sys.path.append({str(TESTS)!r})
import fake_tensorrt
from torchseg_zoo.export import tensorrt
from torchseg_zoo.runtime import engine
sys.modules["tensorrt"] = fake_tensorrt.tensorrt()
tensorrt.CudaDevice = engine.CudaDevice = lambda name: fake_tensorrt.HostDevice()
"""


def test_task_9_prepare_tensorrt_for_another_machine(
    arrive: Arrive, exported: Path, embedded: tsz.SegmentationModel
) -> None:
    """As far as it goes without a GPU; on the other machine a stand-in takes TensorRT's place."""
    proof = json.loads((exported / "bisenet.onnx.parity.json").read_text())
    assert proof["runtimes"]["onnx"]["holds"] and len(proof["runtimes"]["onnx"]["sizes"]) > 3
    walk = arrive(EXPORT)
    carry(exported, walk.folder)
    shell, code = (one for one in blocks_of(EXPORT) if one.section == "tensorrt-on-another-machine")
    script = shell.commands()[-1].words  # examples/tensorrt_engine.py
    here = walk.run(*script)
    assert here.code == MissingExtraError.exit_code and "torchseg-zoo[tensorrt]" in here.err

    walk.notebook.run(STAND_IN)
    walk.notebook.run(
        f"import runpy\nsys.argv = {list(script[1:])}\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code"
    )
    built = (walk.folder / "bisenet.engine").read_bytes()
    walk.notebook.run(code.text, page=EXPORT, line=code.line)
    assert (walk.folder / "bisenet.engine").read_bytes() == built
    assert (walk.folder / "bisenet.engine.json").is_file()
    street = tsz.predict(embedded, walk.folder / "street.png")
    assert pixels(walk.folder / "overlay.png").shape == np.asarray(street.overlay()).shape


def test_task_10_load_checkpoints_of_other_projects(arrive: Arrive) -> None:
    walk = arrive(CONVERT)
    told = walk.follow(CONVERT)
    assert told.splitlines()[0] == "bisenet_x39 19 bisenet_r18 19"
    ours = tsz.load_model(walk.folder / "bisenet.safetensors")
    assert ours.labels.classes[0] == "road" and ours.preprocess.std == (1.0, 1.0, 1.0)
    same = walk.notebook.run(
        "import torch\nkept = tsz.load_model('bisenet.safetensors').state_dict()\n"
        "print(all(torch.equal(kept[name], one) for name, one in model.state_dict().items()))"
    )
    assert same == "True\n"
    assert pixels(walk.folder / "out/street_overlay.png").shape[2] == 3


def test_task_11_publish_a_model_and_load_it_elsewhere(
    arrive: Arrive, embedded: tsz.SegmentationModel
) -> None:
    with HubServer() as hub:
        reach = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        walk = arrive(PUBLISH, **reach, HF_TOKEN="hf_of_nobody")
        told = walk.follow(PUBLISH)
        assert "the same when loaded from there" in told
        assert {"README.md", "config.json", "model.safetensors"} <= set(
            hub.repositories["me/street"]["main"]
        )
        elsewhere = arrive(PUBLISH, **reach)
        shutil.rmtree(elsewhere.folder / "runs")
        load = next(one for one in blocks_of(PUBLISH) if "from_pretrained" in one.text)
        elsewhere.notebook.run(load.text, page=PUBLISH, line=load.line)
    wanted = tsz.predict(embedded, walk.folder / "street.png").overlay()
    assert alike(pixels(elsewhere.folder / "overlay.png"), np.asarray(wanted))


@pytest.fixture
def short_folder() -> Iterator[str]:
    """Ray's sockets lie in it, and their paths have 107 bytes at most."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


def test_task_12_label_on_a_cluster_and_survive_a_killed_worker(
    arrive: Arrive, short_folder: str, embedded: tsz.SegmentationModel
) -> None:
    walk = arrive(CLUSTER, RAY_TMPDIR=short_folder)
    photos, out = walk.folder / "photos", walk.folder / "out"
    few = sorted(photos.iterdir())
    for index, (image, _) in enumerate(drawn(24, seed=8)):
        Image.fromarray(image).resize((480, 360)).save(photos / f"more{index}.png")
    (photos / "broken.png").write_bytes(few[0].read_bytes()[:500])
    cluster, *_ = commands_of(CLUSTER)
    process = walk.start(*cluster.words)
    worker = worker_at_work(out, short_folder, process)
    os.kill(worker, signal.SIGKILL)
    told, problems = process.communicate()
    assert process.returncode == 3, problems
    assert "27 labelled, 0 of them before; 1 failed" in told.splitlines()
    assert "photos/broken.png" in told
    assert not Path(f"/proc/{worker}").exists()
    (photos / "broken.png").unlink()
    predictor = tsz.Predictor(embedded)
    for photo in photos.iterdir():
        overlay = pixels(out / f"{photo.stem}_overlay.png")
        if photo in few:
            assert (overlay == np.asarray(predictor(photo).overlay())).mean() > 0.999
        else:
            photo.unlink()  # the rest of the page is quicker without
    walk.follow(CLUSTER, "without-a-cluster")
    records = [path.read_text() for path in out.glob("predict-*.jsonl")]
    assert sum(text.count("\n") - 1 for text in records) == len(few)


def worker_at_work(out: Path, mark: str, process: subprocess.Popen[str]) -> int:
    """Process id of a worker of the cluster whose variables name ``mark``, with some work done."""
    while process.poll() is None:
        if next(out.glob("*_overlay.png"), None):
            for pid in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208
                try:
                    name = Path(f"/proc/{pid}/cmdline").read_bytes()
                    ours = mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
                except OSError:
                    continue
                if ours and name.startswith(b"ray::") and b"PictureWorker" in name:
                    return int(pid)
        time.sleep(0.01)
    raise AssertionError(process.communicate()[1])
