"""The demo's server by plain HTTP, as a browser, or somebody with worse in mind, talks to it."""

from __future__ import annotations

import html
import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from demo_server import DemoServer, User, png
from loopback import Server
from pictures import chunk
from pictures import png as raw_png
from PIL import Image
from released import TAG, entry_of

import torchseg_zoo as tsz
from torchseg_zoo.cli import main
from torchseg_zoo.data.datasets.drawn import draw_street
from torchseg_zoo.demo import words
from torchseg_zoo.demo.config import DemoConfig
from torchseg_zoo.demo.results import Result, Results
from torchseg_zoo.demo.shelf import OWN_FILE, Shelf
from torchseg_zoo.demo.worker import Worker
from torchseg_zoo.errors import (
    ArgumentError,
    CheckpointFormatError,
    DataError,
    UnknownCheckpointError,
    UnknownModelError,
)

SIZE = (120, 160)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    folder = tmp_path_factory.mktemp("demo")
    with DemoServer(folder, "--max-pixels", "4000000") as running:
        yield running
    assert not [path for path in running.temporary.iterdir() if "torchseg_zoo" in path.name]


@pytest.fixture(scope="module")
def model() -> tsz.SegmentationModel:
    return tsz.bisenet_x39(pretrained="camvid")


def street(seed: int) -> np.ndarray:
    return draw_street(seed, SIZE)[0]


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


# What a user gets


def test_a_picture_gets_its_labels_shares_and_views(server: DemoServer, model) -> None:
    user, image = User(server), street(4)
    shown = user.label(png(image))
    wanted = tsz.predict(model, image)
    labels = opened(user.file(shown.labels))
    assert (labels == wanted.labels).mean() > 0.9999
    photo, overlay = (opened(user.file(one)) for one in shown.slider)
    assert np.abs(photo.astype(int) - image).mean() < 4
    assert np.abs(overlay - np.asarray(wanted.overlay(legend=False)).astype(int)).mean() < 6
    certain = opened(user.file(shown.confidence)) / 255
    assert np.abs(certain - wanted.confidence).mean() < 0.02
    name, share = next(iter(wanted.shares.items()))
    first = re.search(r"<td>([^<]+)</td><td>.*?</td><td>([\d.]+)%</td>", shown.legend)
    assert first is not None and first[1] == name
    assert float(first[2]) == pytest.approx(100 * share, abs=0.11)
    told = r"120×160 pixels \(height×width\) labelled in \*\*[\d.]+ s\*\*, mean confidence"
    assert re.match(told, shown.summary)


def test_a_click_names_the_classes_of_that_pixel(server: DemoServer, model) -> None:
    user, image = User(server), street(5)
    user.label(png(image))
    wanted = tsz.predict(model, image)
    for x, y in ((3, 7), (90, 100), (159, 119)):
        result = user.call("pixel", [None], {"index": [x, y], "value": None})
        (text,) = result["output"]["data"]
        assert f"column {x}, row {y}" in text
        name, percent = re.findall(r"<td>([^<]+)</td><td>.*?</td><td>(.+?)%</td>", text)[0]
        assert name == wanted.classes[wanted.labels[y, x]]
        assert float(percent) == pytest.approx(100 * wanted.confidence[y, x], abs=0.2)
    outside = user.call("pixel", [None], {"index": [160, 5], "value": None})
    assert outside["output"]["data"] == [words.FORGOTTEN]
    assert User(server).call("pixel", [None], {"index": [1, 1], "value": None})["output"][
        "data"
    ] == [words.HINT]


def test_each_user_gets_the_own_result_though_all_ask_at_once(server: DemoServer, model) -> None:
    users = [User(server) for _ in range(4)]
    for seed, user in enumerate(users):
        assert user.ask_to_label(user.upload(png(street(10 + seed)))).status == 200
    for seed, user in reversed(list(enumerate(users))):
        labels = opened(user.file(user.shown().labels))
        assert (labels == tsz.predict(model, street(10 + seed)).labels).mean() > 0.9999


# Bad pictures


def bomb() -> bytes:
    """A header of 100 megapixels over a few bytes."""
    return raw_png(10_000, 10_000, 8, 2, b"\0" * 100)


def hundred_megapixels() -> bytes:
    """A real picture of 100 megapixels, one bit each."""
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    return file.getvalue()


BAD = {
    "web page": (b"<html>404</html>", "not a picture in a known format"),
    "empty": (b"", "empty"),
    "cut": (png(street(0))[:3000], "cut off"),
    "damaged": (png(street(0)).replace(b"IDAT", b"IDAT\0", 1), "bad.png"),
    "bomb": (bomb(), "10000×10000, more than 4000000 pixels"),
    "100 megapixels": (hundred_megapixels(), "10000×10000, more than 4000000 pixels"),
    "other parts": (raw_png(4, 4, 8, 0, b"\0" * 20, chunk(b"IEND", b"")), "bad.png"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_picture_gets_a_plain_message(server: DemoServer, kind: str) -> None:
    content, wanted = BAD[kind]
    user = User(server)
    shown = user.label(content, "bad.png")
    assert wanted in html.unescape(shown.summary) and "Traceback" not in shown.summary
    assert str(server.temporary) not in shown.summary
    assert (shown.slider, shown.overlay, shown.legend, shown.labels) == (None, None, "", None)
    assert user.label(png(street(1))).legend  # and the page goes on


# Paths and addresses


@pytest.fixture(scope="module")
def canary() -> Iterator[Server]:
    with Server() as running:
        running.file("/secret.png", png(street(2)))
        yield running


def outside(server: DemoServer, canary: Server) -> list[str]:
    secret = server.folder / "secret.png"
    secret.write_bytes(png(street(2)))
    inside = str(server.temporary / next(iter(os.listdir(server.temporary))))  # noqa: PTH208
    probes = [
        "/etc/passwd", "/proc/self/environ", "/proc/self/cwd/setup.cfg", "/dev/zero", "/", "..",
        "../../../../etc/passwd", "~/.bashrc", "setup.cfg", "street-1.png", "", ".", "\x00",
        str(secret), str(Path(tsz.__file__)), str(server.temporary), sys.executable,
        f"{inside}/../../secret.png", f"{inside}/../../../../../../etc/passwd",
        f"{inside}/results/../../../secret.png", f"{inside}%2f..%2f..%2fsecret.png",
        f"file://{secret}", f"file:{secret}", f"//{secret}", f"\\\\{secret}", f"{secret}\x00.png",
        f"{canary.url}/secret.png", f"{canary.url.upper()}/secret.png", "http://127.0.0.1:22/",
        f"http:/{canary.url[6:]}/secret.png", "https://127.0.0.1/a.png", "http://[::1]/a.png",
        "http://2130706433/a.png", "ftp://127.0.0.1/a.png", "data:image/png;base64,AAAA",
        "gopher://127.0.0.1/", "hf://a/b", "a" * 5000, "./" * 2000, "C:\\Windows\\win.ini",
    ]  # fmt: skip
    assert len(probes) == 40
    return probes


def test_no_path_outside_the_uploads_is_labelled(server: DemoServer, canary: Server) -> None:
    user = User(server)
    for probe in outside(server, canary):
        for picture in (
            {"path": probe, "meta": {"_type": "gradio.FileData"}},
            {"path": probe, "url": probe, "meta": {"_type": "gradio.FileData"}},
        ):
            for data in (
                [picture, "bisenet_x39.camvid"],
                [None, picture],
                [[picture], {"a": picture}],
            ):
                answer = user.join("label", data)
                assert answer.status == 403, (probe, answer)
                assert b"only pictures that were uploaded" in answer.body
    assert canary.log == []


def test_no_file_outside_the_uploads_is_given(server: DemoServer, canary: Server) -> None:
    secret = png(street(2))
    for probe in outside(server, canary):
        quoted = "".join(f"%{byte:02x}" for byte in probe.encode())
        for path in (f"/gradio_api/file={quoted}", f"/gradio_api/file/{quoted}", f"/file={quoted}"):
            answer = server.ask(path)
            assert answer.status in (400, 403, 404, 405), (probe, answer)
            assert secret[:40] not in answer.body and b"root:" not in answer.body
        assert server.ask(f"/gradio_api/proxy={quoted}").status == 404
    assert canary.log == []


@pytest.mark.parametrize(
    "path",
    [
        "/docs", "/openapi.json", "/monitoring", "/login",
        "/gradio_api/call/label", "/gradio_api/vibe-code", "/gradio_api/openapi.json",
        "/gradio_api/component_server", "/gradio_api/token", "/gradio_api/runs",
        "/login/huggingface",
        "/gradio_api/process_recording", "/gradio_api/mcp/", "/custom_component/1/client/style/a",
    ],
)  # fmt: skip
def test_what_the_page_does_not_use_is_not_there(server: DemoServer, path: str) -> None:
    assert server.ask(path).status == server.ask(path, b"{}").status == 404


def test_nobody_jumps_the_queue(server: DemoServer) -> None:
    user = User(server)
    picture = {"path": user.upload(png(street(1))), "meta": {"_type": "gradio.FileData"}}
    body = {"data": [picture, "bisenet_x39.camvid"], "session_hash": user.session}
    body |= {"fn_index": user.functions["label"]["id"]}
    answer = server.ask("/gradio_api/run/predict", json.dumps(body).encode())
    assert answer.status == 404


def test_requests_that_are_no_requests(server: DemoServer) -> None:
    for body in (b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":"' + b"x" * (1 << 20) + b'"}'):
        assert server.ask("/gradio_api/queue/join", body).status == 403
    assert User(server).join("label", [None, "no such model"]).status == 200


def test_nothing_is_asked_of_other_machines(server: DemoServer) -> None:
    """Runs last of those that use the server: what it did since it was started."""
    User(server).label(png(street(3)))
    asked = server.addresses()
    assert any("socket." in line for line in asked)  # the hook does hear of sockets
    strangers = [
        line for line in asked if not re.search(r"127\.0\.0\.1|'localhost'|/[^']*\.sock|'/", line)
    ]
    assert strangers == []
    page = server.ask("/").body.decode()
    assert "fonts.googleapis" not in page
    assert "api.gradio.app" not in server.errors()


# The parts


def result(classes: tuple[str, ...], shares: tuple[tuple[int, float], ...]) -> Result:
    colors = ((1, 2, 3),) * len(classes)
    return Result(2, 3, classes, colors, shares, 0.5, 0.1, 0.0)


def test_names_of_classes_are_text(server: DemoServer) -> None:
    bad = "<img src=x onerror=alert(1)>"
    text = words.legend(result((bad, "b"), ((0, 0.9999), (1, 0.0001))))
    assert "<img" not in text and html.escape(bad) in text
    assert "<script" not in words.apology(DataError("no", where="<script>"))
    shown = User(server).label(b"no", "<b>.png")
    assert "<b>" not in shown.summary


def test_results_make_room(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", limit_bytes=250)
    folders = [results.new_folder() for _ in range(4)]
    for folder in folders:
        (folder / "photo.jpg").write_bytes(b"x" * 100)
        results.keep(folder, result(("a",), ((0, 1.0),)))
    assert [folder.exists() for folder in folders] == [False, False, True, True]


def test_the_shelf_offers_what_is_here_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCHSEG_ZOO_CACHE", str(tmp_path))
    choices = Shelf(DemoConfig()).choices()
    assert choices[0].name == "bisenet_x39.camvid" and choices[0].here
    assert not any(choice.here for choice in choices[1:])
    away = next(choice for choice in choices if choice.name == "dfn_r101.voc")
    assert "to download" in away.title and "not on this machine yet" in away.offer
    own = Shelf(DemoConfig(checkpoint="runs/mine.safetensors", downloads=False))
    assert own.first == OWN_FILE
    assert [choice.title for choice in own.choices()] == ["mine.safetensors", "bisenet_x39.camvid"]
    with pytest.raises(UnknownCheckpointError, match="not offered here"):
        own.find("dfn_r101.voc")
    with pytest.raises(UnknownCheckpointError, match="not offered here"):
        own.fetch("../../etc/passwd")


@pytest.mark.parametrize(
    ("options", "error", "words_"),
    [
        (("--port", "70000"), ArgumentError, "70000 is no port"),
        (("--max-pixels", "0"), ArgumentError, "max_pixels"),
        (("--host", "256.1.1.1", "--port", "0"), ArgumentError, "cannot be listened on"),
        (("-m", "bisenet_x39.nothing", "--port", "0"), UnknownCheckpointError, "nothing"),
        (("-m", "nothing", "--port", "0"), UnknownModelError, "nothing"),
    ],
)
def test_what_cannot_be_shown(
    options: tuple[str, ...], error: type, words_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *options]) == error.exit_code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert f"torchseg-zoo: {error.__name__}: " in captured.err and words_ in captured.err


def test_a_port_that_is_taken_and_an_extra_that_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port)]) == ArgumentError.exit_code
    assert (
        f"127.0.0.1:{port}: cannot be listened on (Address already in use)"
        in capsys.readouterr().err
    )
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo"]) == 22
    assert "pip install 'torchseg-zoo[demo]'" in capsys.readouterr().err


@pytest.mark.soak
def test_a_worker_is_ended_and_replaced(tmp_path: Path) -> None:
    """One that takes too long, one that is killed, one whose model is no model."""
    picture = tmp_path / "big.png"
    picture.write_bytes(png(draw_street(1, (1200, 1600))[0]))
    folder = tmp_path / "result"
    folder.mkdir()
    slow = Worker(DemoConfig(time_limit_s=0.01))
    slow.load("bisenet_x39.camvid")
    first = slow.process_id
    with pytest.raises(DataError, match=r"more than 0.01 s and was stopped; try a smaller"):
        slow.label("bisenet_x39.camvid", picture, folder)
    assert slow.process_id is None
    slow.load("bisenet_x39.camvid")
    assert slow.process_id not in (None, first)
    slow.close()

    worker = Worker(DemoConfig())
    assert worker.label("bisenet_x39.camvid", picture, folder).width == 1600
    assert worker.process_id is not None
    os.kill(worker.process_id, 9)
    with suppress(DataError):  # if it is asked before its end is known, that is said
        worker.label("bisenet_x39.camvid", picture, folder)
    assert worker.label("bisenet_x39.camvid", picture, folder).width == 1600
    with pytest.raises(UnknownModelError):
        worker.load("nothing.camvid")
    assert worker.pixel("nobody's", 1, 1) is None
    worker.close()

    wrong = Worker(DemoConfig(checkpoint=str(picture)))
    with pytest.raises(CheckpointFormatError):
        wrong.load("")
    wrong.close()


@pytest.mark.soak
def test_ten_users_at_once_and_a_queue_that_is_full(tmp_path: Path) -> None:
    """Fifty pictures of ten users: all are labelled, each right, and memory stays bounded."""
    model = tsz.bisenet_x39(pretrained="camvid")
    with DemoServer(tmp_path, "--queue", "10") as server:
        users = [User(server) for _ in range(10)]
        peaks = []
        for round_ in range(5):
            for number, user in enumerate(users):
                image = draw_street(100 + 10 * round_ + number, (600, 800))[0]
                assert user.ask_to_label(user.upload(png(image))).status == 200
            for number, user in enumerate(users):
                labels = opened(user.file(user.shown().labels))
                image = draw_street(100 + 10 * round_ + number, (600, 800))[0]
                assert (labels == tsz.predict(model, image).labels).mean() > 0.9999
            pids = [server.process.pid, *server.children()]
            peaks.append([_resident_mib(pid) for pid in pids])
        print("\nresident MiB of page and worker, per round:", peaks)
        assert sum(peaks[-1]) < sum(peaks[0]) + 600  # at most 512 MiB of scores are kept
        paths = [user.upload(png(draw_street(1, (1500, 2000))[0])) for user in users]
        answers = [users[n % 10].ask_to_label(paths[n % 10]) for n in range(24)]
        refused = [answer for answer in answers if answer.status == 503]
        assert refused and all(b"Queue is full" in answer.body for answer in refused)
        for user in users:
            assert all(result["success"] for result in user.results())
        assert users[0].label(png(street(1))).legend


def _resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4 / 1024


@pytest.mark.soak
def test_a_worker_that_dies_at_work_costs_one_message(tmp_path: Path) -> None:
    with DemoServer(tmp_path) as server:
        user = User(server)
        image = png(draw_street(1, (2400, 3200))[0])
        assert user.ask_to_label(user.upload(image)).status == 200
        worker = max(server.children(), key=_resident_mib)
        subprocess.run(["kill", "-9", str(worker)], check=True)
        shown = user.shown()
        assert "has ended, and another is started (SIGKILL" in shown.summary or shown.legend
        assert user.label(png(street(1))).legend


@pytest.mark.soak
def test_a_click_downloads_a_model(tmp_path: Path, model, canary: Server) -> None:
    """From a server on loopback; until the click nothing is asked for."""
    file = tmp_path / "tiny.safetensors"
    tsz.save_model(model, file)
    url = canary.file("/tiny.safetensors", file.read_bytes())
    entries = [
        {**entry_of(model, file), "sources": [{"kind": "https", "location": url}]},
        {**entry_of(model, file), "tag": "testset.gone"}
        | {"sha256": "0" * 64, "sources": [{"kind": "https", "location": f"{url}.gone"}]},
    ]
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"checkpoints": entries, "unreleased": []}))
    name = f"bisenet_x39.{TAG}"
    environment = {
        "DEMO_MANIFEST": str(manifest),
        "TORCHSEG_ZOO_CACHE": str(tmp_path / "cache"),
        "TORCHSEG_ZOO_MIRROR": canary.url,  # has nothing, but makes the address a trusted one
    }
    with DemoServer(tmp_path, "-m", name, environment=environment) as server:
        user, image = User(server), street(4)
        path = user.upload(png(image))
        assert user.ask_to_label(path, name).status == 200
        assert user.shown().summary == words.NOT_HERE
        assert canary.count("/tiny.safetensors") == 0
        fetched = user.call("fetch", [name])
        assert fetched["success"], fetched["output"]["error"]
        assert canary.count("/tiny.safetensors") == 1
        assert user.ask_to_label(path, name).status == 200
        labels = opened(user.file(user.shown().labels))
        assert (labels == tsz.predict(model, image).labels).mean() > 0.9999
        failed = user.call("fetch", ["bisenet_x39.testset.gone"])
        assert not failed["success"] and "404" in str(failed["output"])
        assert user.ask_to_label(path, name).status == 200
        assert user.shown().legend
