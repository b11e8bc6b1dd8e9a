"""Videos in, videos of overlays out: what is kept, what is said, and what is left behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from commands import model_file, run_command
from PIL import Image
from videos import read_frames, stream_of, write_video

import torchseg_zoo as tsz
from torchseg_zoo.data.label_map import read_label
from torchseg_zoo.errors import ArgumentError, DataError
from torchseg_zoo.inference import render
from torchseg_zoo.inference.video import VideoResult, predict_video


@pytest.fixture(scope="module")
def predictor() -> tsz.Predictor:
    torch.manual_seed(0)
    return tsz.Predictor(tsz.bisenet_x39(num_classes=5).eval(), keep_memory=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model"))


def rgb(frame: av.VideoFrame) -> np.ndarray:
    return frame.to_ndarray(format="rgb24")


def label(predictor: tsz.Predictor, source: object, target: Path, **options) -> VideoResult:
    return predict_video(predictor, source, target, progress=False, **options)


def nothing_left(folder: Path, *names: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


# What is kept


def test_frames_rate_size_and_labels(tmp_path: Path, predictor: tsz.Predictor) -> None:
    rate = Fraction(24000, 1001)
    source = write_video(tmp_path / "in.mp4", 60, (72, 96), rate=rate, sound=True)
    result = label(predictor, source, tmp_path / "out.mp4", labels=tmp_path / "labels")
    frames, shown = read_frames(source), read_frames(tmp_path / "out.mp4")
    assert (result.frames, result.size, result.left_out) == (60, (72, 96), ("audio",))
    assert result.failure is None and result.frames_per_second > 0
    written = stream_of(tmp_path / "out.mp4")
    assert written == {"size": (72, 96), "rate": rate, "frames": 60, "kinds": ["video"]}
    assert [frame.time for frame in shown] == pytest.approx([frame.time for frame in frames])
    names = sorted(path.name for path in (tmp_path / "labels").iterdir())
    assert names == [f"{number:06}.png" for number in range(1, 61)]
    counts = np.zeros(5)
    for name in names:
        counts += np.bincount(read_label(tmp_path / "labels" / name).ravel(), minlength=5)
    shares = {tsz_class: count / counts.sum() for tsz_class, count in
              zip(predictor.model.labels.classes, counts, strict=True) if count}  # fmt: skip
    assert result.shares == pytest.approx(shares)
    for number in (1, 17, 60):
        pixels = rgb(frames[number - 1])
        prediction = predictor(pixels)
        labels = read_label(tmp_path / "labels" / f"{number:06}.png")
        np.testing.assert_array_equal(labels, prediction.labels)
        overlay = np.asarray(prediction.overlay(legend=False)).astype(int)
        # Stored colours have half the resolution, and borders are one pixel wide.
        assert np.abs(rgb(shown[number - 1]).astype(int) - overlay).mean() < 12
        assert np.abs(pixels.astype(int) - overlay).mean() > 24
    nothing_left(tmp_path, "in.mp4", "labels", "out.mp4")


@pytest.mark.parametrize("size", [(47, 64), (48, 65), (33, 35)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_odd_sizes(
    tmp_path: Path, predictor: tsz.Predictor, size: tuple[int, int], suffix: str
) -> None:
    source = write_video(tmp_path / f"in{suffix}", 3, size)
    result = label(predictor, source, tmp_path / f"out{suffix}")
    assert (result.size, result.frames) == (size, 3)
    assert stream_of(tmp_path / f"out{suffix}")["size"] == size
    assert len(read_frames(tmp_path / f"out{suffix}")) == 3


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_a_turned_video_comes_out_upright(
    tmp_path: Path, predictor: tsz.Predictor, rotation: int, turns: int
) -> None:
    source = write_video(tmp_path / "in.mp4", 4, (48, 96), rotation=rotation)
    frames = read_frames(source)
    assert round(frames[0].rotation) % 360 == rotation % 360
    result = label(predictor, source, tmp_path / "out.mp4", labels=tmp_path / "labels")
    assert result.size == ((96, 48) if turns % 2 else (48, 96))
    shown = read_frames(tmp_path / "out.mp4")
    assert (shown[0].height, shown[0].width, shown[0].rotation) == (*result.size, 0)
    upright = np.ascontiguousarray(np.rot90(rgb(frames[3]), turns))
    labels = read_label(tmp_path / "labels" / "000004.png")
    np.testing.assert_array_equal(labels, predictor.labels(upright))


def test_uneven_times_are_kept(tmp_path: Path, predictor: tsz.Predictor) -> None:
    times = [0, 40, 45, 300, 301, 1000]
    source = write_video(tmp_path / "in.mkv", 6, times=times)
    for target in (tmp_path / "out.mkv", tmp_path / "out.mp4"):
        label(predictor, source, target)
        found = [1000 * frame.time for frame in read_frames(target)]
        assert found == pytest.approx(times, abs=0.5)


def test_colours_of_the_matrix_that_the_video_names(tmp_path: Path, predictor) -> None:
    """A frame goes out as it came in, by the same YUV matrix; with alpha 0 it is the photo."""
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", 25, {"crf": "4"})
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        video.codec_context.colorspace = 1  # BT.709
        for _ in range(3):
            red = np.full((48, 64, 3), (200, 30, 40), np.uint8)
            frame = av.VideoFrame.from_ndarray(red, format="rgb24")
            container.mux(video.encode(frame.reformat(format="yuv420p", dst_colorspace=1)))
        container.mux(video.encode())
    label(predictor, source, tmp_path / "out.mp4", alpha=0.0)
    (before, *_), (after, *_) = read_frames(source), read_frames(tmp_path / "out.mp4")
    assert before.colorspace == after.colorspace == 1
    np.testing.assert_allclose(rgb(after).mean((0, 1)), (200, 30, 40), atol=4)


# What cannot be read to its end


def test_a_cut_video_is_labelled_as_far_as_it_goes(
    tmp_path: Path, predictor: tsz.Predictor
) -> None:
    whole = write_video(tmp_path / "whole.mp4", 40, (96, 128), movflags="faststart")
    data = whole.read_bytes()
    source = tmp_path / "in.mp4"
    source.write_bytes(data[: len(data) * 9 // 10])
    result = label(predictor, source, tmp_path / "out.mp4", labels=tmp_path / "labels")
    count = result.frames
    assert 5 < count < 40
    failure = result.failure
    assert failure is not None and failure.where == str(source)
    assert f"after frame {count}, at {(count - 1) / 25:.2f} s" in failure.what
    assert len(read_frames(tmp_path / "out.mp4")) == count
    assert len(list((tmp_path / "labels").iterdir())) == count


def test_damage_in_the_middle_costs_what_is_damaged(
    tmp_path: Path, predictor: tsz.Predictor
) -> None:
    """Single pictures (MJPEG), one of which is no picture any more."""
    source = write_video(tmp_path / "in.mkv", 10, codec="mjpeg")
    data = bytearray(source.read_bytes())
    starts = [i for i in range(len(data)) if data[i : i + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 10
    data[starts[4] : starts[5] - 60] = bytes(starts[5] - 60 - starts[4])
    source.write_bytes(data)
    result = label(predictor, source, tmp_path / "out.mp4")
    assert result.frames == 9
    assert result.failure is not None and "is damaged after frame 4, at 0.12 s" in str(
        result.failure
    )


def no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", 25)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()


def only_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", 8000)
        quiet = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), "fltp", "mono")
        quiet.sample_rate = 8000
        container.mux(audio.encode(quiet))
        container.mux(audio.encode())


def cut_header(path: Path) -> None:
    path.write_bytes(write_video(path.with_name("whole.mp4")).read_bytes()[:900])
    path.with_name("whole.mp4").unlink()


def playlist(path: Path) -> None:
    other = write_video(path.with_name("other.mp4"))
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other}\n#EXT-X-ENDLIST\n")


NO_VIDEOS = {
    "empty": (lambda path: path.write_bytes(b""), "is no video"),
    "text": (lambda path: path.write_text("<html>404</html>" * 50), "is no video"),
    "picture": (lambda path: Image.new("RGB", (64, 48)).save(path, "PNG"), "is no video"),
    "playlist": (playlist, "is no video"),
    "sound": (only_sound, "has no video in it (only audio)"),
    "no frames": (no_frames, "has no "),
    "cut header": (cut_header, "is no video"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "pipe": (os.mkfifo, "is a named pipe"),
    "missing": (lambda path: None, "no such file"),
}


@pytest.mark.parametrize("kind", NO_VIDEOS)
def test_what_is_no_video(tmp_path: Path, predictor: tsz.Predictor, kind: str) -> None:
    make, words = NO_VIDEOS[kind]
    source = tmp_path / "in.mp4"
    make(source)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataError) as error:
        label(predictor, source, out / "out.mp4", labels=out / "labels")
    assert error.value.where == str(source) and words in str(error.value)
    nothing_left(out)


# What cannot be written


def test_targets_that_cannot_be(tmp_path: Path, predictor: tsz.Predictor) -> None:
    source = write_video(tmp_path / "in.mp4", 2)
    with pytest.raises(ArgumentError, match=r"out.avi: cannot write .avi as video"):
        label(predictor, source, tmp_path / "out.avi")
    with pytest.raises(ArgumentError, match="would replace this video"):
        label(predictor, source, source)
    with pytest.raises(ArgumentError, match=r"in.mp4: is there already"):
        label(predictor, source, tmp_path / "out.mp4", labels=source)
    with pytest.raises(DataError, match=r"none/out.mp4: cannot be written .*create the folder"):
        label(predictor, source, tmp_path / "none" / "out.mp4")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        label(predictor, source, tmp_path / "folder.mp4", labels=tmp_path / "labels")
    with pytest.raises(ArgumentError, match="max_frames"):
        label(predictor, source, tmp_path / "out.mp4", max_frames=0)
    nothing_left(tmp_path, "folder.mp4", "in.mp4")


def test_a_disk_that_fills_leaves_the_old_file(tmp_path: Path, predictor: tsz.Predictor) -> None:
    source = write_video(tmp_path / "in.mp4", 30, (96, 128))
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(
            DataError, match=r"out.mp4: cannot be written .*File too large"
        ) as error:
            label(predictor, source, target, labels=tmp_path / "labels")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert error.value.fix
    assert target.read_bytes() == b"old"
    nothing_left(tmp_path, "in.mp4", "out.mp4")


# Cameras, with files in their place


def test_a_file_in_place_of_a_camera(tmp_path: Path, predictor: tsz.Predictor) -> None:
    source = write_video(tmp_path / "in.mkv", 9)
    result = label(predictor, source, tmp_path / "out.mp4", camera=True, max_frames=5)
    assert (result.frames, result.failure) == (5, None)
    assert stream_of(tmp_path / "out.mp4")["frames"] == 5


def test_a_camera_that_is_not_there(tmp_path: Path, predictor: tsz.Predictor) -> None:
    for device in ("97", "/dev/video97", tmp_path / "none"):
        with pytest.raises(DataError, match=r"no such camera .*cameras here"):
            label(predictor, device, tmp_path / "out.mp4", camera=True)
    with pytest.raises(DataError, match="cannot be opened as a camera"):
        label(predictor, "/dev/null", tmp_path / "out.mp4", camera=True)
    nothing_left(tmp_path)


class Interrupted(tsz.Predictor):
    """Somebody presses Ctrl-C while the third frame is labelled."""

    def labels(self, image: object) -> np.ndarray:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 3:
            signal.raise_signal(signal.SIGINT)
        return super().labels(image)


def feed(tmp_path: Path, data: bytes) -> tuple[Path, subprocess.Popen[bytes]]:
    """A named pipe, and the process that writes into it and goes."""
    file, pipe = tmp_path / "feed", tmp_path / "camera"
    file.write_bytes(data)
    os.mkfifo(pipe)
    return pipe, subprocess.Popen(["sh", "-c", 'cat "$1" > "$2"', "sh", file, pipe])


def test_a_camera_that_vanishes_leaves_what_it_showed(
    tmp_path: Path, predictor: tsz.Predictor
) -> None:
    data = write_video(tmp_path / "in.ts", 30, codec="mpeg2video").read_bytes()
    pipe, feeder = feed(tmp_path, data[: len(data) // 2 - 90])
    result = label(predictor, pipe, tmp_path / "out.mkv", camera=True)
    assert feeder.wait(60) == 0
    assert 5 < result.frames < 30
    assert result.failure is not None and result.failure.where == str(pipe)
    assert f"after frame {result.frames}, at " in str(result.failure)
    assert "plugged in" in str(result.failure)
    assert len(read_frames(tmp_path / "out.mkv")) == result.frames


def test_an_interrupt_ends_a_recording_and_keeps_it(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    predictor = Interrupted(tsz.bisenet_x39(num_classes=5), keep_memory=False)
    data = write_video(tmp_path / "in.ts", 30, codec="mpeg2video").read_bytes()
    pipe, feeder = feed(tmp_path, data)
    result = label(predictor, pipe, tmp_path / "out.mp4", camera=True)
    feeder.wait(60)
    assert (result.frames, result.failure) == (3, None)
    assert len(read_frames(tmp_path / "out.mp4")) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_of_a_video_leaves_nothing(tmp_path: Path) -> None:
    predictor = Interrupted(tsz.bisenet_x39(num_classes=5), keep_memory=False)
    source = write_video(tmp_path / "in.mp4", 6)
    with pytest.raises(KeyboardInterrupt):
        label(predictor, source, tmp_path / "out.mp4", labels=tmp_path / "labels")
    nothing_left(tmp_path, "in.mp4")


# The command


def test_the_command_names_files_as_for_pictures(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_video(tmp_path / "in.mp4", 4, sound=True)
    out = tmp_path / "out"
    code, text, err = run_command(
        capsys, "predict", "--video", source, "-c", checkpoint, "-o", out, "--labels"
    )
    assert code == 0
    assert text.startswith(f"{source} -> {out}/in_overlay.mp4, {out}/in_labels (4 frames, ")
    assert f"{source}: left out: audio" in err
    nothing_left(out, "in_labels", "in_overlay.mp4")
    code, text, err = run_command(
        capsys, "predict", "--video", source, "-c", checkpoint, "-o", tmp_path / "x.mov",
        "--json", "--frames", 2,
    )  # fmt: skip
    record = json.loads(text)
    assert (code, record["frames"], record["failure"]) == (0, 2, None)
    assert record["files"] == [str(tmp_path / "x.mov")]
    assert sum(record["shares"].values()) == pytest.approx(1, abs=1e-5)


def test_a_cut_video_ends_with_3_and_a_line(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_video(tmp_path / "whole.mp4", 40, (96, 128), movflags="faststart").read_bytes()
    source = tmp_path / "in.mp4"
    source.write_bytes(data[: len(data) * 9 // 10])
    target = tmp_path / "out.mp4"
    code, text, err = run_command(
        capsys, "predict", "--video", source, "-c", checkpoint, "-o", target
    )
    assert code == 3
    frames = len(read_frames(target))
    assert f"({frames} frames, " in text
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"torchseg-zoo: DataError: {source}: ")
    assert f"after frame {frames}" in last


@pytest.mark.parametrize(
    "arguments",
    [
        ("a.png", "--video", "in.mp4"),
        ("--video", "in.mp4", "--webcam"),
        ("--video", "in.mp4", "--resume"),
        ("--video", "in.mp4", "--shard", "1/2"),
        ("--webcam", "--confidence"),
        ("a.png", "--frames", "3"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_command(capsys, "predict", *arguments)
    assert (code, out) == (2, "") and "usage:" in err


def test_without_pyav_the_extra_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['av'] = None\n"
        "from torchseg_zoo.cli import main\n"
        "sys.exit(main(['predict', '--video', 'in.mp4']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 22
    assert done.stderr == (
        "torchseg-zoo: MissingExtraError: reading and writing video needs PyAV; "
        "pip install 'torchseg-zoo[video]'\n"
    )
    nothing_left(tmp_path)


@pytest.mark.soak
def test_memory_stays_flat_over_a_thousand_frames(tmp_path: Path) -> None:
    """Resident memory after the first hundred frames and after a thousand, in a process."""
    source = write_video(tmp_path / "in.mp4", 1000, (360, 480))
    script = f"""
import torch, torchseg_zoo as tsz
from pathlib import Path
from torchseg_zoo.inference.video import predict_video
from torchseg_zoo.inference.video_write import VideoWriter

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4 / 1024

seen, add = [], VideoWriter.add
def counting(self, *arguments):
    add(self, *arguments)
    seen.append(resident())
VideoWriter.add = counting
predictor = tsz.Predictor(tsz.bisenet_x39(pretrained="camvid"))
result = predict_video(predictor, {str(source)!r}, {str(tmp_path / "out.mp4")!r}, progress=False)
assert result.frames == len(seen) == 1000
print(max(seen[:100]), max(seen[900:]), result.frames_per_second)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    early, late, speed = map(float, done.stdout.split())
    print(
        f"\nresident {early:.0f} MiB in frames 1-100, {late:.0f} in 901-1000; {speed:.1f} frames/s"
    )
    assert late < early + 16


def test_the_overlay_is_that_of_pictures(tmp_path: Path, predictor: tsz.Predictor) -> None:
    """In whole colour resolution, and near to losslessly: an odd size tells the pictures apart."""
    source = write_video(tmp_path / "in.mkv", 2, (49, 65))
    label(predictor, source, tmp_path / "out.mkv", alpha=0.7)
    pixels = rgb(read_frames(source)[1])
    labels = predictor.labels(pixels)
    overlay = render.overlay(pixels, labels, predictor.model.labels, alpha=0.7, legend=False)
    shown = rgb(read_frames(tmp_path / "out.mkv")[1]).astype(int)
    assert np.abs(shown - np.asarray(overlay)).mean() < 6
