"""``files``: refusing what is not a file, and writing whole files or none."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from torchseg_zoo.errors import ArgumentError, CacheError, DataError
from torchseg_zoo.files import (
    atomic_write,
    atomic_write_all,
    open_regular,
    printable,
    require_writable,
)


def _names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_atomic_write_creates_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic_write(path, lambda stream: stream.write(b"old"))
    assert path.read_bytes() == b"old"
    atomic_write(str(path), lambda stream: stream.write(b"new"))
    assert path.read_bytes() == b"new"
    assert _names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_atomic_write_honours_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "a", lambda stream: stream.write(b"x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("failure", [RuntimeError("boom"), KeyboardInterrupt(), ValueError("bad")])
def test_a_failing_writer_keeps_the_old_file(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write(stream: BinaryIO) -> None:
        stream.write(b"half of the new fi")
        raise failure

    with pytest.raises(type(failure)) as caught:
        atomic_write(path, write)
    assert caught.value is failure
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["a"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_disk_errors_keep_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if call == "write":
        write = fail
    else:
        monkeypatch.setattr(os, call, fail)

        def write(*args: object) -> None:
            args[0].write(b"new")  # type: ignore[attr-defined]

    with pytest.raises(DataError, match="cannot be written") as caught:
        atomic_write(path, write)
    monkeypatch.undo()
    assert caught.value.where == str(path)
    assert caught.value.why == os.strerror(number)
    assert caught.value.fix
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["a"]


@pytest.mark.parametrize("too_large", range(3))
def test_files_that_go_together_are_all_written_or_none(tmp_path: Path, too_large: int) -> None:
    paths = [tmp_path / name for name in "abc"]
    atomic_write_all(dict.fromkeys(paths, b"old"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    contents = dict.fromkeys(paths, b"new") | {paths[too_large]: bytes(1 << 16)}
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(DataError, match=f"{paths[too_large].name}: cannot be written"):
            atomic_write_all(contents)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.read_bytes() for path in paths] == [b"old"] * 3
    assert _names(tmp_path) == ["a", "b", "c"]
    atomic_write_all(contents)
    assert [path.read_bytes() for path in paths] == list(contents.values())


def test_the_error_class_can_be_chosen_and_ours_pass_through(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="create the folder first"):
        atomic_write(tmp_path / "no" / "a", lambda stream: None, error=CacheError)

    def write(_: BinaryIO) -> None:
        raise CacheError("mine")  # also an OSError

    with pytest.raises(CacheError, match=r"^mine$"):
        atomic_write(tmp_path / "a", write)
    assert _names(tmp_path) == []


def test_atomic_write_takes_names_as_long_as_the_system_does(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    atomic_write(path, lambda stream: stream.write(b"x"))
    assert path.read_bytes() == b"x"
    with pytest.raises(DataError, match="shorter name"):
        atomic_write(tmp_path / ("n" * 256), lambda stream: None)


def test_atomic_write_never_replaces_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "null").symlink_to("/dev/null")
    for name, kind in [("pipe", "named pipe"), ("folder", "a folder"), ("null", "a device")]:
        with pytest.raises(DataError, match=kind):
            atomic_write(tmp_path / name, lambda stream: stream.write(b"x"))
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "null").is_symlink()
    assert _names(tmp_path) == ["folder", "null", "pipe"]


def test_atomic_write_into_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    user = os.geteuid()
    if user == 0:  # who may write everywhere: go on as somebody else, who gets as far as here
        for folder in tmp_path.parents:
            if folder.stat().st_mode & 0o001:
                break
            folder.chmod(0o711)
        os.seteuid(65534)
    try:
        with pytest.raises(DataError, match="may write to"):
            atomic_write(tmp_path / "a", lambda stream: None)
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o755)
    assert _names(tmp_path) == []


def test_open_regular_reads_files_and_links_to_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        with open_regular(tmp_path / name) as stream:
            assert stream.read() == b"content"


def test_open_regular_refuses_everything_else_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)  # the names of sockets have to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name, message in {
            "pipe": "named pipe",
            "socket": "a socket",
            "dangling": "link points to nothing",
            "loop": "cannot be opened",
            "missing": "no such file",
            ".": "a folder",
            "/dev/zero": "a device",
            "a\0b": "no file can have this name",
            "a\ud800b": "no file can have this name",
            "n" * 300: "cannot be opened",
        }.items():
            with pytest.raises(DataError, match=message) as caught:
                open_regular(name)
            assert caught.value.fix
            str(caught.value).encode()


def test_a_pipe_swapped_in_after_the_look_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"x")
    seen = (tmp_path / "file").stat()
    monkeypatch.setattr(os, "stat", lambda *_, **__: seen)
    with pytest.raises(DataError, match="named pipe"):
        open_regular(tmp_path / "pipe")


def test_a_number_is_no_path() -> None:
    with pytest.raises(ArgumentError, match="expected a path, got int"):
        open_regular(0)  # type: ignore[arg-type]  # would be standard input
    with pytest.raises(ArgumentError, match="expected a path, got int"):
        atomic_write(1, lambda stream: None)  # type: ignore[arg-type]


def test_printable_keeps_text_and_escapes_the_rest() -> None:
    assert printable(Path("bü.png")) == "bü.png"
    assert printable(os.fsdecode(b"a\xff.png")) == "a\\udcff.png"
    assert printable(b"a\xff.png") == "a\\udcff.png"


def test_a_file_that_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    require_writable(target)
    assert list(tmp_path.iterdir()) == []
    target.write_text("old")
    require_writable(target)
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    for path in (target / "b.txt", tmp_path / "none" / "b.txt", tmp_path, Path("/dev/full")):
        with pytest.raises(DataError) as before:
            require_writable(path)
        with pytest.raises(DataError) as then:
            atomic_write(path, lambda stream: stream.write(b"new"))
        assert str(before.value) == str(then.value)
